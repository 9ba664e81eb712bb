package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/middleware"
)

// tier is one retry topic of the group: what failed waits in it for one delay.
// Because that is the same for all, its messages come due in the order in which
// they stand there.
type tier struct {
	router *Router
	topic  string
	delay  time.Duration
	// strays takes what no handler here can be found for to the poison queue. It
	// has the chain around the dispatch and no handlers.
	strays *topicHandlers
}

// delayOf returns the piece that parks h's messages, and whether it does.
func (r *Router) delayOf(h *handler) (message.HandlerMiddleware, bool) {
	return middleware.Delay(middleware.DelayConfig{
		Delays: h.cfg.Delays, Ordered: h.cfg.Ordered, Sink: r.parts.Delay, Stopping: r.stopping,
		Sleep: overlay(h.cfg.Retry, r.cfg.Retry).Sleep, Metrics: r.parts.Metrics, Log: r.parts.Log,
	}), len(h.cfg.Delays) > 0 && !r.without(middleware.PieceDelay)
}

// buildTiers makes the tiers that the handlers' ladders have. Where everything is
// discarded nothing ever waits.
func (r *Router) buildTiers() {
	r.tiers = map[string]*tier{}
	if r.without(middleware.PieceDelay) || r.parts.Backend.Capabilities().Discards {
		return
	}
	for _, t := range r.topics {
		for _, h := range t.all() {
			if h.cfg.Ordered {
				continue
			}
			for _, delay := range h.cfg.Delays {
				topic := r.bus.RetryTopic(r.group, delay)
				if r.tiers[topic] == nil {
					strays := &topicHandlers{router: r, topic: topic, backend: r.parts.Backend.Name()}
					strays.build()
					r.tiers[topic] = &tier{router: r, topic: topic, delay: delay, strays: strays}
				}
			}
		}
	}
}

// RetryTopics returns the topics in which the group's messages wait for delayed
// retries, each with its delay. Run subscribes to them too. They are known once
// registering has ended.
func (r *Router) RetryTopics() map[string]time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]time.Duration, len(r.tiers))
	for topic, t := range r.tiers {
		out[topic] = t.delay
	}
	return out
}

const (
	// ensurePause is how long a tier waits before it asks a broker again that could
	// not make its topic, and ensureTimeout how long it asks.
	ensurePause   = 2 * time.Second
	ensureTimeout = 10 * time.Second
	// maxSkew is how much two hosts' clocks may differ and be taken for right.
	maxSkew = time.Second
)

// dueSubscriber delivers a tier's messages when they are due.
type dueSubscriber struct {
	driver.Subscriber
	tier *tier
	told context.Context // ends when the router is told to stop
}

// Subscribe implements driver.Subscriber. It returns at once: the topic is made
// sure of in the background.
func (s dueSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		if !s.tier.ensure(s.told) {
			return
		}
		in, err := s.Subscriber.Subscribe(ctx, topic)
		if err != nil {
			if !errors.Is(err, driver.ErrClosed) { // stopped meanwhile
				s.tier.router.log.Error("retry topic is not read", "topic", topic, "error", err)
			}
			return
		}
		var waiting sync.WaitGroup
		defer waiting.Wait()
		for msg := range in {
			waiting.Go(func() {
				if !s.tier.due(msg) {
					return
				}
				select {
				case out <- msg:
				case <-msg.Context().Done(): // every worker is stuck, and the router has given up
					driver.Settle(msg, false)
				}
			})
		}
	}()
	return out, nil
}

// ensure sees to it that the topic is there before anybody subscribes to it: it
// keeps messages for longer than the domain's topics may, and it is needed also
// where creating those is turned off. It returns false when told to stop.
func (t *tier) ensure(told context.Context) bool {
	for warned := false; ; warned = true {
		once, cancel := context.WithTimeout(told, ensureTimeout)
		err := t.router.parts.EnsureRetryTopic(once, t.router.group, t.delay)
		cancel()
		if err == nil {
			return true
		}
		if !warned && told.Err() == nil {
			t.router.log.Warn("retry topic cannot be made sure of, trying again", "topic", t.topic, "error", err)
		}
		pause := time.NewTimer(ensurePause)
		select {
		case <-pause.C:
		case <-told.Done():
			pause.Stop()
			return false
		}
	}
}

// due returns true when msg is to be tried now. Otherwise it has been settled:
// left with its driver, to be delivered again later or, because the router
// stops, to the next one; that counts as no failure. Or it was parked again.
func (t *tier) due(msg *message.Message) bool {
	p, err := middleware.ReadParked(msg)
	if err != nil {
		return true // for the poison queue
	}
	wait := time.Until(p.Due)
	switch {
	case wait <= 0:
	case wait <= t.delay+maxSkew && driver.CanSettleLater(msg):
		driver.SettleLater(msg, wait)
		return false
	// Those behind it are due later. And a clock that is wrong, here or where the
	// message was parked, makes nobody wait for more than the delay.
	case !t.sleep(msg.Context(), min(wait, t.delay)):
		driver.Settle(msg, false)
		return false
	}
	if !p.NotBefore.After(p.Due) {
		return true
	}
	now := time.Now()
	rest := p.NotBefore.Sub(p.Due) - max(now.Sub(p.Due), 0) // by the clock that wrote both
	if rest <= 0 {
		return true
	}
	p.NotBefore = now.Add(rest)
	driver.Settle(msg, t.parkAgain(msg, p, rest))
	return false
}

// sleep returns false when the router stops or ctx ends first.
func (t *tier) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.router.stopping:
	case <-ctx.Done():
	}
	return false
}

// parkAgain parks a message for the rest of a wait longer than its tier's.
func (t *tier) parkAgain(msg *message.Message, p middleware.Parked, rest time.Duration) bool {
	r := t.router
	var all middleware.Delays
	for _, other := range r.tiers {
		all = append(all, other.delay)
	}
	slices.Sort(all)
	delay := all.AtLeast(rest)
	p.Due = time.Now().Add(delay)
	err := r.parts.Delay(msg.Context(), r.group, delay, middleware.ParkedMessage(msg, p))
	if err != nil {
		r.log.Error("message left unacked: its retry topic does not take it", "topic", p.Topic,
			"handler", p.Handler, "error", err)
	}
	return err == nil
}

// resume takes a message that is due through its handler's chain, as if its own
// topic had just delivered it.
func (t *tier) resume(msg *message.Message) error {
	r := t.router
	p, err := middleware.ReadParked(msg)
	if err != nil {
		if _, known := msg.Metadata[events.HeaderMalformed]; !known {
			msg.Metadata[events.HeaderMalformed] = err.Error()
		}
		return t.strays.handle(msg)
	}
	home := r.topics[p.Topic]
	if p.Group != r.group || home == nil || home.byName(p.Handler) == nil {
		return t.strays.resume(msg, p) // with its headers: they tell what it is
	}
	middleware.StripParked(msg)
	return home.resume(msg, p)
}

// resume is handle for a delayed retry.
func (t *topicHandlers) resume(msg *message.Message, p middleware.Parked) error {
	middleware.Begin(msg, t.backend, t.router.group, t.topic).Resume(p)
	return t.run(msg)
}

// named returns the handler of a delayed retry.
func (t *topicHandlers) named(d *middleware.Delivery) (*handler, error) {
	h := t.byName(d.Handler)
	if h == nil {
		return nil, &events.Error{Reason: events.ReasonNoHandler, Err: fmt.Errorf(
			"it waited to be tried again by handler %q for topic %q: group %s has no such handler",
			d.Handler, d.Msg.Metadata[events.HeaderRetryTopic], t.router.group)}
	}
	if typ, err := events.TypeOf(d.Msg.Metadata, d.Msg.Payload); err == nil {
		if _, known := events.Lookup(typ); known {
			d.EventType = typ
		}
	}
	return h, nil
}

func (t *topicHandlers) byName(name string) *handler {
	for _, h := range t.all() {
		if h.name == name {
			return h
		}
	}
	return nil
}

// all returns the topic's handlers.
func (t *topicHandlers) all() []*handler {
	out := slices.Collect(maps.Values(t.typed))
	if t.raw != nil {
		out = append(out, t.raw)
	}
	return out
}
