package bus

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/aura360/eventbus/bus/driver"
)

// States of Health and Status.
const (
	StatusOK       = "ok"       // the broker answers, every subscription reads
	StatusDegraded = "degraded" // something is not as it should be; see the details
	StatusDown     = "down"     // the broker does not answer, or the bus is closed
)

// How long a probe of the broker takes at most, and how long its answer serves:
// probes of many watchers must not become a load.
const (
	pingTimeout = 2 * time.Second
	pingFresh   = time.Second
	auditFresh  = 5 * time.Minute
)

// Health is the condition of a bus, and the JSON of /status (alias /health).
// Fields are only ever added.
type Health struct {
	Status    string `json:"status"`            // ok, degraded or down
	Backend   string `json:"messaging_backend"` // kafka, redis, memory or disabled
	Adapter   string `json:"adapter,omitempty"` // build of the backend
	Service   string `json:"service"`
	Instance  string `json:"instance"`
	Namespace string `json:"namespace"`
	Uptime    string `json:"uptime"`
	// Error is why the broker does not answer, "" when it does.
	Error string `json:"error,omitempty"`
	// Server is what the broker's settings mean for what was accepted; null when
	// the backend has none or it could not be asked.
	Server        *driver.Audit        `json:"server,omitempty"`
	Subscriptions []SubscriptionHealth `json:"subscriptions"`
	// HeldBack are the groups, of any service, for which the backend keeps
	// messages that nobody else needs. An abandoned one degrades the status.
	HeldBack []driver.HeldBack `json:"held_back,omitempty"`
}

// SubscriptionHealth is the condition of one topic's subscription.
type SubscriptionHealth struct {
	Group        string `json:"group"`
	Topic        string `json:"topic"`
	Connected    bool   `json:"connected"`
	Resubscribed int    `json:"resubscribed"`
	LastError    string `json:"last_error,omitempty"`
	// Lag is how many messages the group has not settled, null when it is not
	// known: the group never read the topic, or the broker cannot tell.
	Lag *int64 `json:"lag"`
}

// Health asks the broker how it is, for at most 2 s, and reports. Calls within
// a second of each other share one answer.
func (b *Bus) Health(ctx context.Context) Health {
	h := Health{
		Status: StatusOK, Backend: b.backend.Name(), Adapter: b.cfg.Adapter, Service: b.cfg.ServiceName,
		Instance: b.instance, Namespace: b.cfg.Namespace, Uptime: time.Since(b.started).Round(time.Second).String(),
		Subscriptions: []SubscriptionHealth{},
	}
	if h.Backend != Kafka && h.Backend != Redis {
		h.Adapter = ""
	}
	if b.inUse.closed() {
		h.Status, h.Error = StatusDown, ErrClosed.Error()
		return h
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	up := true
	if err := b.health.check(ctx); err != nil {
		h.Status, h.Error, up = StatusDown, err.Error(), false
	}
	if up {
		h.Server = b.health.auditOnce(ctx, b.backend)
	}
	h.Subscriptions = b.subscriptions(ctx, up)
	for _, s := range h.Subscriptions {
		if !s.Connected && h.Status == StatusOK && h.Backend != Disabled {
			h.Status = StatusDegraded
		}
	}
	if r, ok := b.backend.(driver.StorageReporter); ok {
		h.HeldBack = r.HeldBack()
		if h.Status == StatusOK && slices.ContainsFunc(h.HeldBack, func(g driver.HeldBack) bool { return g.Abandoned }) {
			h.Status = StatusDegraded
		}
	}
	return h
}

// subscriptions reports every open subscription, sorted by group and topic.
func (b *Bus) subscriptions(ctx context.Context, up bool) []SubscriptionHealth {
	b.subsMu.Lock()
	open := make([]*subscription, 0, len(b.subs))
	for s := range b.subs {
		open = append(open, s)
	}
	b.subsMu.Unlock()
	out := []SubscriptionHealth{}
	inspector, _ := b.backend.(driver.Inspector)
	for _, s := range open {
		for topic, state := range s.State() {
			h := SubscriptionHealth{
				Group: s.group, Topic: topic, Connected: state.Connected,
				Resubscribed: state.Resubscribed, LastError: state.LastError,
			}
			if inspector != nil && up {
				if lag, known, err := inspector.Lag(ctx, topic, s.group); err == nil && known {
					h.Lag = &lag
				}
			}
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b SubscriptionHealth) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Topic, b.Topic))
	})
	return out
}

// healthCache remembers the last answers of the broker.
type healthCache struct {
	ping func(context.Context) error

	mu      sync.Mutex // held while asking: others wait for the one answer
	pinged  time.Time
	pingErr error
	audited time.Time
	audit   *driver.Audit
}

func (h *healthCache) check(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.pinged) < pingFresh {
		return h.pingErr
	}
	// The answer is for others too: a caller that goes away must not make it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
	defer cancel()
	h.pingErr = h.ping(ctx)
	h.pinged = time.Now()
	return h.pingErr
}

func (h *healthCache) auditOnce(ctx context.Context, backend driver.Backend) *driver.Audit {
	auditor, ok := backend.(driver.Auditor)
	if !ok {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.audit == nil || time.Since(h.audited) > auditFresh {
		if a, err := auditor.Audit(ctx); err == nil {
			h.audit, h.audited = &a, time.Now()
		}
	}
	return h.audit
}
