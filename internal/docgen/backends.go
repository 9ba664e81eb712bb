package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/bus/driver"
)

const (
	tableBegin = "<!-- Written by internal/docgen from the backends' Capabilities. -->\n"
	tableEnd   = "<!-- End of what docgen wrote. -->\n"
)

// backends writes the table of capabilities into docs/backends.md, and leaves
// the rest of the page as it is.
func backends(root string) ([]byte, error) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "backends.md"))
	if err != nil {
		return nil, err
	}
	head, rest, begun := bytes.Cut(page, []byte(tableBegin))
	_, tail, ended := bytes.Cut(rest, []byte(tableEnd))
	if !begun || !ended {
		return nil, fmt.Errorf("the lines %q and %q are not both there", tableBegin, tableEnd)
	}
	table, err := capabilities()
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{head, []byte(tableBegin), table, []byte(tableEnd), tail}, nil), nil
}

func capabilities() ([]byte, error) {
	var columns []driver.Capabilities
	for _, name := range []string{bus.Kafka, bus.Redis, bus.Memory, bus.Disabled} {
		// Opening needs no broker: the connection is made in the background.
		b, err := bus.Open(context.Background(), bus.Config{
			Backend: name, Logger: slog.New(slog.DiscardHandler),
			Kafka: bus.KafkaConfig{BootstrapServers: "127.0.0.1:1"}, Redis: bus.RedisConfig{URL: "redis://127.0.0.1:1"},
		})
		if err != nil {
			return nil, err
		}
		columns = append(columns, b.Parts().Backend.Capabilities())
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // nothing to wait for
		_ = b.Shutdown(ctx)
	}
	var out bytes.Buffer
	out.WriteString("| | kafka | redis | memory | disabled |\n|---|---|---|---|---|\n")
	row := func(text string, of func(driver.Capabilities) string) {
		fmt.Fprintf(&out, "| %s |", text)
		for _, c := range columns {
			fmt.Fprintf(&out, " %s |", of(c))
		}
		out.WriteString("\n")
	}
	yes := func(of func(driver.Capabilities) bool) func(driver.Capabilities) string {
		return func(c driver.Capabilities) string {
			if of(c) {
				return "yes"
			}
			return "no"
		}
	}
	row("what was confirmed survives the process", yes(func(c driver.Capabilities) bool { return c.Durable }))
	row("other processes see the events", yes(func(c driver.Capabilities) bool { return c.CrossProcess }))
	row("each group gets every event, its members share them", yes(func(c driver.Capabilities) bool { return c.Groups }))
	row("order per key, any number of members", yes(func(c driver.Capabilities) bool { return c.OrderedPerKey }))
	row("order per key, one member", yes(func(c driver.Capabilities) bool { return c.OrderedSingleMember || c.OrderedPerKey }))
	row("different keys handled in parallel within a partition", yes(func(c driver.Capabilities) bool { return c.ParallelKeys }))
	row("largest message", func(c driver.Capabilities) string {
		if c.MaxMessageBytes == 0 {
			return "-"
		}
		return fmt.Sprintf("%d MiB", c.MaxMessageBytes>>20)
	})
	row("publishes are discarded", yes(func(c driver.Capabilities) bool { return c.Discards }))
	return out.Bytes(), nil
}
