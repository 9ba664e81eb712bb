package middleware

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

var errAttemptTimeout = errors.New("publish try timed out")

// RetryPublish sends again what was not confirmed, under p and ctx, whichever
// ends first.
//
// Three rules hold what the results promise:
//
//   - What failed with driver.ErrPermanent or driver.ErrClosed is not sent again.
//     What stands behind a permanently refused message of its batch is, at once.
//   - Messages are sent again in the order given. One is not sent again after a
//     later message of the same key was confirmed: it would stand behind that
//     one. Its caller is told instead.
//   - A message that was once driver.Unknown stays so when a later try is merely
//     rejected: the first copy may still appear. Confirmed is final.
//
// It stands inside MetricsPublish, which then measures what the caller waits,
// and outside PoisonPublish: only an inner piece sees each refusal once.
func RetryPublish(p RetryPolicy) Publish {
	p = p.withDefaults(-1, 15*time.Second, 5*time.Second)
	return func(next PublishFunc) PublishFunc {
		return func(ctx context.Context, topic string, msgs ...*message.Message) error {
			start := time.Now()
			err := p.try(ctx, next, start, start, topic, msgs)
			if err == nil {
				return nil
			}
			return p.retryPublish(ctx, next, start, topic, msgs, err)
		}
	}
}

// try is one call of next, bounded by the policy.
func (p RetryPolicy) try(ctx context.Context, next PublishFunc, start, now time.Time, topic string, msgs []*message.Message) error {
	var end time.Time
	if p.AttemptTimeout > 0 {
		end = now.Add(p.AttemptTimeout)
	}
	if p.MaxElapsed > 0 {
		if last := start.Add(p.MaxElapsed); end.IsZero() || last.Before(end) {
			end = last
		}
	}
	if end.IsZero() {
		return next(ctx, topic, msgs...)
	}
	if dl, ok := ctx.Deadline(); ok && !end.Before(dl) {
		return next(ctx, topic, msgs...) // the caller's own bound is the nearer
	}
	tctx := withTryDeadline(ctx, end)
	defer tctx.stop()
	return next(tctx, topic, msgs...)
}

func (p RetryPolicy) retryPublish(ctx context.Context, next PublishFunc, start time.Time, topic string, msgs []*message.Message, err error) error {
	results := slices.Clone(driver.Results(err, len(msgs)))
	backend := backendOf(err, validationOrigin)
	report := sendingFrom(ctx)
	var again []*message.Message
	refused := 0
	for attempts := 1; ; {
		pending, behind, n := resendable(msgs, results)
		if len(pending) == 0 || ctx.Err() != nil {
			break
		}
		// One more message is out of the way, and the others only stood behind
		// it: no reason to wait. At most len(msgs) tries pass through here.
		passed := behind && n > refused
		refused = n
		if !passed {
			wait, elapsed := p.backoff(attempts), time.Since(start)
			if !p.more(attempts, elapsed, wait) || p.Sleep(ctx, wait) != nil {
				break
			}
			attempts++
		}
		again = again[:0]
		for _, i := range pending {
			again = append(again, msgs[i])
		}
		report.retries += len(again)
		err := p.try(ctx, next, start, time.Now(), topic, again)
		backend = backendOf(err, backend)
		for j, r := range driver.Results(err, len(again)) {
			results[pending[j]] = merge(results[pending[j]], r)
		}
	}
	return publishError(backend, topic, results)
}

// merge returns what is known of a message whose earlier tries ended in old.
func merge(old, r driver.Result) driver.Result {
	if r.Outcome == driver.Confirmed {
		return r
	}
	if old.Outcome == driver.Unknown {
		r.Outcome = driver.Unknown
	}
	if errors.Is(r.Err, driver.ErrNotSent) && !errors.Is(old.Err, driver.ErrPermanent) {
		// What stopped this message itself says more than that another one
		// stopped it. The old error was not permanent, or it had not been sent.
		r.Err = old.Err
	}
	return r
}

// resendable returns the indices of the messages to send again, whether all of
// them were held back for an earlier message of their batch, and how many
// messages are refused for ever.
func resendable(msgs []*message.Message, results []driver.Result) (pending []int, behind bool, refused int) {
	var settled map[string]int // by key: the last confirmed message
	for i, r := range results {
		if k := driver.Key(msgs[i]); r.Outcome == driver.Confirmed && k != "" {
			if settled == nil {
				settled = map[string]int{}
			}
			settled[k] = i
		}
	}
	behind = true
	for i, r := range results {
		switch {
		case r.Outcome == driver.Confirmed:
			continue
		case errors.Is(r.Err, driver.ErrPermanent):
			refused++
			continue
		case errors.Is(r.Err, driver.ErrClosed):
			continue
		}
		if last, ok := settled[driver.Key(msgs[i])]; ok && last > i {
			continue
		}
		pending = append(pending, i)
		behind = behind && errors.Is(r.Err, driver.ErrNotSent)
	}
	return pending, behind, refused
}
