package main

import (
	"context"
	"fmt"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"gvisor.dev/gvisor/pkg/shim/v1/runsc"
	"gvisor.dev/gvisor/pkg/shim/v1/runtimeoptions"
)

// optionsType is the type URL of runtimeoptions.Options, as containerd sends it.
const optionsType = "runtimeoptions.v1.Options"

// registerTaskService offers gVisor's task service to the shim's server. The
// stock registration is not used: it reads configuration from fixed places.
func registerTaskService(configPath string) {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			down, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			return newService(ic.Context, publisher.(shim.Publisher), down.(shutdown.Service), configPath)
		},
	})
}

// service is gVisor's task service with our defaults in front.
type service struct {
	task.TaskService
	shutdown   shutdown.Service
	configPath string
}

func newService(ctx context.Context, publisher shim.Publisher, down shutdown.Service, configPath string) (*service, error) {
	tasks, err := runsc.NewTaskService(ctx, publisher, down)
	if err != nil {
		down.Shutdown()
		return nil, err
	}
	return &service{TaskService: tasks, shutdown: down, configPath: configPath}, nil
}

func (s *service) RegisterTTRPC(server *ttrpc.Server) error {
	task.RegisterTaskService(server, s)
	return nil
}

// UnaryServerInterceptor gives every error the status code that containerd's
// client turns back into a sentinel.
func (s *service) UnaryServerInterceptor() ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		answer, err := method(ctx, unmarshal)
		return answer, errgrpc.ToGRPC(err)
	}
}

// Create fills in the options file when the task brings none.
func (s *service) Create(ctx context.Context, r *task.CreateTaskRequest) (*task.CreateTaskResponse, error) {
	if r.Options == nil && s.configPath != "" {
		opts := runtimeoptions.Options{TypeUrl: runtimeName + ".options", ConfigPath: s.configPath}
		value, err := opts.Marshal()
		if err != nil {
			return nil, fmt.Errorf("runtime options: %w", err)
		}
		r.Options = &anypb.Any{TypeUrl: optionsType, Value: value}
	}
	return s.TaskService.Create(ctx, r)
}

// Shutdown ends the process once no container is left; asked earlier it does
// nothing, which is not an error.
func (s *service) Shutdown(ctx context.Context, r *task.ShutdownRequest) (*emptypb.Empty, error) {
	if _, err := s.TaskService.Shutdown(ctx, r); err == nil {
		s.shutdown.Shutdown()
	}
	return &emptypb.Empty{}, nil
}
