package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
)

func TestPartsCloseInReverseOrderEachInItsTurn(t *testing.T) {
	p, ctx := newParts(context.Background(), slog.New(slog.DiscardHandler))
	var order []string
	note := func(name string) func(context.Context) error {
		return func(context.Context) error { order = append(order, name); return nil }
	}
	p.add("first", note("first"))
	p.run(ctx, "second", func(ctx context.Context) error {
		<-ctx.Done()
		order = append(order, "second")
		return ctx.Err()
	})
	p.add("third", note("third"))
	for range 2 {
		if err := p.close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"third", "second", "first"}; !slices.Equal(order, want) {
		t.Errorf("closed %v, want %v", order, want)
	}
}

func TestPartThatEndsByItselfEndsTheStack(t *testing.T) {
	p, ctx := newParts(context.Background(), slog.New(slog.DiscardHandler))
	broken := errors.New("disk is gone")
	p.run(ctx, "queue", func(context.Context) error { return broken })
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, broken) {
		t.Errorf("cause is %v", err)
	}
	if err := p.close(ctx); err != nil {
		t.Errorf("what is told as the cause is told again: %v", err)
	}
}
