package middleware

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

// PublishFunc sends msgs to topic, in order, under the contract of
// driver.Backend's Publish: nil when all of them are confirmed, else a
// *driver.PublishError with one result per message.
//
// The pieces of this package may set headers of msgs; they keep neither msgs
// nor the slice.
type PublishFunc func(ctx context.Context, topic string, msgs ...*message.Message) error

// Publish is one piece of the publish path.
type Publish func(next PublishFunc) PublishFunc

// ChainPublish puts pieces around f. The first is the outermost: it sees a
// publish first and its result last.
func ChainPublish(f PublishFunc, pieces ...Publish) PublishFunc {
	for i := len(pieces) - 1; i >= 0; i-- {
		f = pieces[i](f)
	}
	return f
}

// sending is the context of one publish, through which inner pieces report to
// MetricsPublish. It is used by the publishing goroutine only.
type sending struct {
	context.Context
	retries  int // messages sent again
	poisoned int // messages put into the poison queue
}

type sendingKey struct{}

func (s *sending) Value(key any) any {
	if _, ok := key.(sendingKey); ok {
		return s
	}
	return s.Context.Value(key)
}

// sendingFrom returns the report of ctx, a throw-away one without MetricsPublish.
func sendingFrom(ctx context.Context) *sending {
	if s, ok := ctx.Value(sendingKey{}).(*sending); ok {
		return s
	}
	return &sending{}
}

// publishError returns results as an error, nil when all are confirmed.
func publishError(backend, topic string, results []driver.Result) error {
	for _, r := range results {
		if r.Outcome != driver.Confirmed {
			return &driver.PublishError{Backend: backend, Topic: topic, Results: results}
		}
	}
	return nil
}
