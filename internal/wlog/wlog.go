// Package wlog lets Watermill's components log to slog without ever logging
// what is in a message: some of them put whole messages into their fields
// (the router's "not_sent_message"), and a payload in a log is a leak.
package wlog

import (
	"context"
	"log/slog"
	"slices"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
)

// LevelTrace is below debug: Watermill traces every message.
const LevelTrace = watermill.LevelTrace

// payloadLike are the names of fields that hold messages or parts of them.
var payloadLike = map[string]bool{
	"not_sent_message": true, "message": true, "messages": true, "msg": true,
	"payload": true, "body": true, "value": true, "data": true,
	"metadata": true, "headers": true, "key": true,
}

// adapter writes to l. It is safe for concurrent use.
type adapter struct {
	l *slog.Logger
}

// New returns an adapter that writes to l, and drops the fields that could hold
// a payload: by their names, and by their values' types. No other field is
// renamed or dropped. What Watermill calls info is its own bookkeeping and comes
// as debug. A nil l discards everything.
func New(l *slog.Logger) watermill.LoggerAdapter {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	return adapter{l}
}

func (a adapter) Error(msg string, err error, fields watermill.LogFields) {
	a.log(slog.LevelError, msg, err, fields)
}

func (a adapter) Info(msg string, fields watermill.LogFields) {
	a.log(slog.LevelDebug, msg, nil, fields)
}

func (a adapter) Debug(msg string, fields watermill.LogFields) {
	a.log(slog.LevelDebug, msg, nil, fields)
}

func (a adapter) Trace(msg string, fields watermill.LogFields) {
	a.log(LevelTrace, msg, nil, fields)
}

func (a adapter) With(fields watermill.LogFields) watermill.LoggerAdapter {
	args := make([]any, 0, len(fields))
	for _, attr := range attrs(fields) {
		args = append(args, attr)
	}
	return adapter{a.l.With(args...)}
}

func (a adapter) log(level slog.Level, msg string, err error, fields watermill.LogFields) {
	ctx := context.Background() // Watermill's interface has none
	if !a.l.Enabled(ctx, level) {
		return // attrs allocates, and there is a trace line for every message
	}
	list := attrs(fields)
	if err != nil {
		list = append(list, slog.String("error", err.Error())) // as a value, pkg/errors would print its stack
	}
	a.l.LogAttrs(ctx, level, msg, list...) //nolint:sloglint // the text is Watermill's
}

// attrs returns the fields that may be logged, sorted by name.
func attrs(fields watermill.LogFields) []slog.Attr {
	names := make([]string, 0, len(fields))
	for name, value := range fields {
		if !payloadLike[name] && !holdsPayload(value) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	list := make([]slog.Attr, 0, len(names)+1)
	for _, name := range names {
		list = append(list, slog.Any(name, fields[name]))
	}
	return list
}

// holdsPayload tells whether a value is a message or raw bytes.
func holdsPayload(v any) bool {
	switch v.(type) {
	case *message.Message, message.Message, message.Messages, []*message.Message,
		message.Payload, message.Metadata, []byte:
		return true
	}
	return false
}
