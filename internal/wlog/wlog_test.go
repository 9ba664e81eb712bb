package wlog_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/internal/wlog"
)

func TestNoPayloadIsLogged(t *testing.T) {
	const secret = "the patient's diagnosis"
	m := message.NewMessage("id", []byte(secret))
	m.Metadata.Set("x", secret)
	fields := watermill.LogFields{
		"topic": "orders", "not_sent_message": secret, "payload": secret, "metadata": m.Metadata,
		"a": m, "b": message.Messages{m}, "c": []*message.Message{m}, "d": m.Payload, "e": []byte(secret), "f": m.Metadata,
	}
	var buf bytes.Buffer
	l := wlog.New(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: wlog.LevelTrace})))
	l = l.With(fields)
	l.Error("error", errors.New("boom"), fields)
	l.Info("info", fields)
	l.Debug("debug", fields)
	l.Trace("trace", nil)
	out := buf.String()
	if strings.Contains(out, secret) || strings.Contains(out, "[116 104") {
		t.Errorf("a payload is in the log:\n%s", out)
	}
	// Watermill's Info is debug: it tells of every subscription.
	for _, want := range []string{"level=ERROR msg=error topic=orders", "error=boom", "level=DEBUG msg=info", "level=DEBUG msg=debug", "level=DEBUG-4 msg=trace topic=orders"} {
		if !strings.Contains(out, want) {
			t.Errorf("missing %q in\n%s", want, out)
		}
	}
}

func TestFieldsBelowTheLevelCostNothing(t *testing.T) {
	l := wlog.New(nil)
	fields := watermill.LogFields{"topic": "orders"}
	if n := testing.AllocsPerRun(100, func() { l.Trace("x", fields) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if slog.New(slog.DiscardHandler).Enabled(context.Background(), slog.LevelError) {
		t.Error("discarding is enabled")
	}
}
