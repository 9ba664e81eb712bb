// Package wlog lets Watermill and its adapters log through slog, without what
// must never be in a log: some of their fields hold whole messages.
package wlog

import (
	"context"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill"
)

// secretFields hold payloads, or all of a message.
var secretFields = map[string]bool{
	"not_sent_message": true,
	"payload":          true,
	"message":          true,
	"messages":         true,
	"msg":              true,
	"kafka_message":    true,
	"xp":               true,
}

// Adapter is a watermill.LoggerAdapter on slog. What Watermill calls info is
// its own bookkeeping, and logged as debug; trace is below debug.
type Adapter struct{ log *slog.Logger }

// New returns an adapter that writes to log.
func New(log *slog.Logger) *Adapter { return &Adapter{log: log} }

// Level of Watermill's trace messages.
const levelTrace = slog.LevelDebug - 4

// Error implements watermill.LoggerAdapter.
func (a *Adapter) Error(msg string, err error, fields watermill.LogFields) {
	if !a.log.Enabled(context.Background(), slog.LevelError) {
		return
	}
	a.log.Error(msg, append(attrs(fields), slog.Any("error", err))...)
}

// Info implements watermill.LoggerAdapter.
func (a *Adapter) Info(msg string, fields watermill.LogFields) {
	a.write(slog.LevelDebug, msg, fields)
}

// Debug implements watermill.LoggerAdapter.
func (a *Adapter) Debug(msg string, fields watermill.LogFields) {
	a.write(slog.LevelDebug, msg, fields)
}

// Trace implements watermill.LoggerAdapter.
func (a *Adapter) Trace(msg string, fields watermill.LogFields) { a.write(levelTrace, msg, fields) }

// With implements watermill.LoggerAdapter.
func (a *Adapter) With(fields watermill.LogFields) watermill.LoggerAdapter {
	return New(a.log.With(attrs(fields)...))
}

func (a *Adapter) write(level slog.Level, msg string, fields watermill.LogFields) {
	if a.log.Enabled(context.Background(), level) {
		a.log.Log(context.Background(), level, msg, attrs(fields)...)
	}
}

func attrs(fields watermill.LogFields) []any {
	out := make([]any, 0, len(fields)+1)
	for k, v := range fields {
		if !secretFields[k] {
			out = append(out, slog.Any(k, v))
		}
	}
	return out
}
