package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/image"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/worker/gvisor"
)

// builderConfig is how this process makes images.
type builderConfig struct {
	// CacheDir keeps finished archives.
	CacheDir string
	// Source is auto, registry or packages.
	Source string
	// RuntimeDir is where runsc is looked for first.
	RuntimeDir string
	// Fresh makes anew what is in the cache; of image build and pull.
	Fresh bool
}

func defaultBuilder() builderConfig {
	return builderConfig{CacheDir: defaultCacheDir(), Source: string(image.Auto), RuntimeDir: runtimeDir()}
}

func defaultCacheDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "/var/cache/sandlot/images"
	}
	return filepath.Join(dir, "sandlot", "images")
}

func (c *builderConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.CacheDir, "cache-dir", c.CacheDir, "directory that keeps finished images")
	f.StringVar(&c.Source, "image-source", c.Source, "where catalogue images come from: auto, registry or packages (Debian's)")
	withEnv(f, "cache-dir", "image-source")
}

func (c *builderConfig) freshFlag(f *pflag.FlagSet) {
	f.BoolVar(&c.Fresh, "fresh", false, "make anew what --cache-dir has")
}

func (c *builderConfig) wrong() problems {
	var p problems
	p.check(slices.Contains([]string{string(image.Auto), string(image.FromRegistry), string(image.FromPackages)}, c.Source),
		"--image-source %q: write auto, registry or packages", c.Source)
	return p
}

// builder makes images and tells w how far it is.
func (c *builderConfig) builder(w io.Writer) (*image.Builder, func()) {
	found, _ := gvisor.FindBinaries(c.RuntimeDir) // without runsc a pull still works; Build says so itself
	bar := &imageBar{w: w, screen: isTerminal(w)}
	return &image.Builder{
		CacheDir: c.CacheDir, Runsc: found.Runsc, Source: image.Source(c.Source),
		Install: os.Geteuid() == 0, Fresh: c.Fresh, Progress: bar.event,
	}, bar.end
}

func (a *app) imageCmd() *cobra.Command {
	return group(
		&cobra.Command{Use: "image", Short: "List, build, pull, import, set and remove images", GroupID: groupHost},
		a.imageListCmd(), a.imageBuildCmd(), a.imagePullCmd(), a.imageImportCmd(), a.imageSetCmd(), a.imageRemoveCmd(),
	)
}

func (a *app) imageListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the images that jobs can use, and those that could be built", Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			images, err := c.Images(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(api.Images{Images: images}, func(w io.Writer) { showImages(w, images) })
		},
	}
}

func showImages(w io.Writer, images []api.Image) {
	rows := [][]string{{"NAME", "READY", "SIZE", "DIGEST", "POOL", "LANGUAGES", "DESCRIPTION"}}
	missing := ""
	for _, i := range images {
		ready, bytes := "yes", size(int64(i.Size))
		if !i.Present {
			ready, bytes, missing = "no", "-", i.Name
		}
		rows = append(rows, []string{i.Name, ready, bytes, dash(shortDigest(i.Digest)), dash(preference(i)), dash(strings.Join(i.Languages, ",")), i.Description})
	}
	table(w, rows)
	if missing != "" {
		fmt.Fprintf(w, "\nMake one ready:  sandlot image build %s\n", missing)
	}
}

// preference is the pool that an image prefers, and when jobs leave it.
func preference(i api.Image) string {
	if i.Pool == "" || len(i.SpillTo) == 0 {
		return i.Pool
	}
	return fmt.Sprintf("%s, after %s %s", i.Pool, i.SpillAfter, strings.Join(i.SpillTo, ","))
}

func shortDigest(digest string) string {
	if len(digest) > 19 {
		return digest[:19]
	}
	return digest
}

func (a *app) imageBuildCmd() *cobra.Command {
	config := defaultBuilder()
	var cacheOnly bool
	cmd := &cobra.Command{
		Use:   "build NAME…",
		Short: "Make catalogue images ready: pull or build them, and send them to the server",
		Long: `Make catalogue images ready. Where a registry answers the image is pulled,
elsewhere it is built from Debian's packages; finished images are kept in
--cache-dir, so that the next server has them at once.`,
		Args: someArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			wrong := append(config.wrong(), wrongImages("NAME", names)...)
			if err := wrong.err(); err != nil {
				return err
			}
			if cacheOnly {
				return a.fillCache(cmd.Context(), config, names)
			}
			return a.upload(cmd.Context(), config, names, func(b *image.Builder, name string) (image.Archive, error) {
				return b.Prepare(cmd.Context(), name)
			})
		},
	}
	config.flags(cmd.Flags())
	config.freshFlag(cmd.Flags())
	cmd.Flags().BoolVar(&cacheOnly, "cache-only", false, "only make them ready in --cache-dir; needs no server")
	return cmd
}

// fillCache makes catalogue images ready for servers to come.
func (a *app) fillCache(ctx context.Context, config builderConfig, names []string) error {
	for _, name := range names {
		builder, end := config.builder(a.stderr)
		_, err := builder.Prepare(ctx, name)
		end()
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
	}
	return nil
}

// wrongImages lists the names that are not in the catalogue.
func wrongImages(flag string, names []string) problems {
	var p problems
	catalogue := image.Builtin()
	for _, name := range names {
		_, ok := catalogue.Recipe(name)
		p.check(ok, "%s: %q is not in the catalogue, which has %s", flag, name, recipeNames(catalogue))
	}
	return p
}

func recipeNames(c image.Catalogue) string {
	var names []string
	for _, r := range c.Recipes() {
		names = append(names, r.Name)
	}
	return strings.Join(names, ", ")
}

func (a *app) imagePullCmd() *cobra.Command {
	config := defaultBuilder()
	cmd := &cobra.Command{
		Use: "pull REFERENCE…", Short: "Pull images from a registry and send them to the server", Args: someArgs,
		RunE: func(cmd *cobra.Command, references []string) error {
			return a.upload(cmd.Context(), config, references, func(b *image.Builder, reference string) (image.Archive, error) {
				return b.Prepare(cmd.Context(), reference)
			})
		},
	}
	config.flags(cmd.Flags())
	config.freshFlag(cmd.Flags())
	return cmd
}

func (a *app) imageImportCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "import NAME FILE",
		Short: "Send an OCI layout or docker save archive to the server under a name",
		Args:  exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.upload(cmd.Context(), defaultBuilder(), args[:1], func(*image.Builder, string) (image.Archive, error) {
				return image.Open(args[1])
			})
		},
	}
}

func (a *app) imageSetCmd() *cobra.Command {
	var pool string
	var after time.Duration
	var to []string
	var never bool
	cmd := &cobra.Command{
		Use: "set NAME", Short: "Set which pool an image prefers", Args: exactArgs(1),
		Long: `Jobs that name the image and no pool go to the pool that it prefers. One that
has waited there for --spill-after spills over: it goes on waiting in the first
pool of --spill-to that takes it and has workers for it. What is left out stays
as it is; --pool "" has the image prefer none.`,
		Example: `  sandlot image set python --pool gpu --spill-after 30s
  sandlot image set python --spill-to main,big
  sandlot image set python --pool gpu --no-spill`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var in api.ImageSettings
			set := cmd.Flags().Changed
			if set("pool") {
				in.Pool = &pool
			}
			if set("spill-after") {
				wait := job.MillisOf(after)
				in.SpillAfter = &wait
			}
			if set("spill-to") {
				in.SpillTo = &to
			}
			if never {
				in.SpillTo = &[]string{}
			}
			var wrong problems
			wrong.check(in != api.ImageSettings{}, "nothing is to be set; name --pool, --spill-after, --spill-to or --no-spill")
			wrong.check(pool == "" || api.BadPool(pool) == "", "--pool %q: %s", pool, api.BadPool(pool))
			wrong.check(in.SpillAfter == nil || *in.SpillAfter >= job.MinSpillAfter && *in.SpillAfter <= job.MaxSpillAfter,
				"--spill-after %s: write between %s and %s; --no-spill has jobs wait however long it takes", after, job.MinSpillAfter, job.MaxSpillAfter)
			for _, name := range to {
				wrong.check(api.BadPool(name) == "", "--spill-to %q: %s", name, api.BadPool(name))
			}
			if err := wrong.err(); err != nil {
				return err
			}
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			image, err := c.SetImage(cmd.Context(), args[0], in)
			if err != nil {
				return err
			}
			return a.show(image, func(w io.Writer) { showImages(w, []api.Image{image}) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&pool, "pool", "", "the pool that jobs go to which name none; \"\" for none in particular")
	f.DurationVar(&after, "spill-after", job.DefaultSpillAfter.Duration(), "how long a job waits there before it spills over")
	f.StringSliceVar(&to, "spill-to", []string{job.DefaultPool}, "the pools to which it may spill over, best first")
	f.BoolVar(&never, "no-spill", false, "keep jobs in the preferred pool however long they wait")
	cmd.MarkFlagsMutuallyExclusive("spill-to", "no-spill")
	return cmd
}

func (a *app) imageRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME…", Short: "Forget images; jobs that wait for them may fail", Args: someArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := a.client(impatient)
			if err != nil {
				return err
			}
			return a.eachJob(names, func(name string) error { return c.DeleteImage(cmd.Context(), name) })
		},
	}
}

// upload makes each image by get and sends it to the server.
func (a *app) upload(ctx context.Context, config builderConfig, names []string, get func(*image.Builder, string) (image.Archive, error)) error {
	c, err := a.client(impatient)
	if err != nil {
		return err
	}
	if _, err := c.Images(ctx); err != nil {
		return err // before minutes are spent on building
	}
	var stored api.Images
	for _, name := range names {
		builder, end := config.builder(a.stderr)
		archive, err := get(builder, name)
		end()
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		i, err := sendImage(ctx, c, name, archive, a.stderr)
		if err != nil {
			return err
		}
		stored.Images = append(stored.Images, i)
	}
	return a.show(stored, func(w io.Writer) {
		for _, i := range stored.Images {
			fmt.Fprintf(w, "%s  %s  %s\n", i.Name, i.Digest, size(int64(i.Size)))
		}
	})
}

func sendImage(ctx context.Context, c *client.Client, name string, archive image.Archive, w io.Writer) (api.Image, error) {
	body, err := archive.Reader()
	if err != nil {
		return api.Image{}, err
	}
	defer body.Close()
	bar := &imageBar{w: w, screen: isTerminal(w)}
	defer bar.end()
	i, err := c.PutImage(ctx, name, body, archive.Size, func(sent int64) {
		bar.event(image.Event{Image: name, Stage: "send", Done: sent, Total: archive.Size})
	})
	if err != nil {
		return i, fmt.Errorf("send image %s: %w", name, err)
	}
	return i, nil
}

// prepare makes the named catalogue images ready on the server, those that
// are not there yet.
func prepareImages(ctx context.Context, c *client.Client, config builderConfig, names []string, w io.Writer) error {
	if len(names) == 0 {
		return nil
	}
	images, err := c.Images(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, name := range names {
		if slices.ContainsFunc(images, func(i api.Image) bool { return i.Name == name && i.Present }) {
			continue
		}
		builder, end := config.builder(w)
		archive, err := builder.Prepare(ctx, name)
		end()
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w (choose another --cache-dir)", err)
		}
		if err != nil {
			return fmt.Errorf("prepare image %s: %w", name, err)
		}
		if _, err := sendImage(ctx, c, name, archive, w); err != nil {
			return err
		}
	}
	return nil
}

// imageBar tells how far an image is: one line that redraws itself on a
// screen, a line per stage elsewhere.
type imageBar struct {
	w      io.Writer
	screen bool
	last   string
	drawn  time.Time
}

func (b *imageBar) event(e image.Event) {
	stage := fmt.Sprintf("image %s: %s", e.Image, e.Stage)
	if e.Detail != "" {
		stage += " " + e.Detail
	}
	if !b.screen {
		if stage != b.last {
			b.last = stage
			fmt.Fprintln(b.w, stage)
		}
		return
	}
	if stage == b.last && time.Since(b.drawn) < 100*time.Millisecond {
		return
	}
	b.last, b.drawn = stage, time.Now()
	if e.Total > 0 {
		stage += fmt.Sprintf("  %d%%", 100*e.Done/e.Total)
	}
	fmt.Fprint(b.w, "\r\x1b[K"+stage)
}

func (b *imageBar) end() {
	if b.screen && b.last != "" {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}
