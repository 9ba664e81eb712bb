package drivertest_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"go.uber.org/goleak"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/drivertest"
	"github.com/aura360/eventbus/bus/membus"
	"github.com/aura360/eventbus/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestGoodBackendPasses runs the whole suite, faults included, on a backend
// whose broker can go down.
func TestGoodBackendPasses(t *testing.T) {
	server := newServer()
	drivertest.Run(t, drivertest.Harness{
		Open: server.open,
		OpenDown: func(t testing.TB) (driver.Backend, func()) {
			s := newServer()
			s.stop()
			return s.open(t), s.start
		},
		Restart: func(testing.TB) {
			server.stop()
			server.start()
		},
		Inject: func(t testing.TB, topic string, raw []byte) {
			m := message.NewMessage("", raw)
			m.Metadata[events.HeaderMalformed] = "no message"
			if err := server.memory.Publish(context.Background(), topic, m); err != nil {
				t.Fatal(err)
			}
		},
		Serial: true,
	})
}

func TestWatermillSuite(t *testing.T) {
	server := newServer()
	drivertest.RunWatermill(t, drivertest.Harness{Open: server.open}, tests.Features{
		ConsumerGroups:  true,
		GuaranteedOrder: true,
		Persistent:      true,
		ForceShort:      true,
	})
}

// TestExceptions: one that must fail and does passes as a test; one that is not
// run is skipped with its reason.
func TestExceptions(t *testing.T) {
	server := newServer()
	none := drivertest.Exception{Reason: "the test of the suite has no such hook"}
	drivertest.Run(t, drivertest.Harness{
		Open: func(t testing.TB) driver.Backend {
			return &faulty{client: server.open(t).(*client), batch: func(msgs []*message.Message) []*message.Message {
				out := make([]*message.Message, len(msgs))
				for i, m := range msgs {
					out[i] = m.Copy()
					delete(out[i].Metadata, "empty")
				}
				return out
			}}
		},
		Except: map[string]drivertest.Exception{
			"OpenWhileDown": none, "Restart": none, "Malformed": none,
			"RoundTrip":   {Reason: "metadata named empty is lost", MustFail: true, Wait: time.Second},
			"EnsureTopic": {Reason: "to see it skipped"},
		},
	})
}

// TestFaultsAreSeen: the suite fails backends that break one promise each.
func TestFaultsAreSeen(t *testing.T) {
	for _, test := range []struct {
		name string
		with faulty
		seen []string // by these cases
		says string   // part of the failure of the first
	}{
		{
			name: "loses every message that is the third of its batch",
			with: faulty{batch: func(msgs []*message.Message) []*message.Message {
				if len(msgs) > 2 {
					return slices.Delete(slices.Clone(msgs), 2, 3)
				}
				return msgs
			}},
			seen: []string{"BatchOrder", "RoundTrip", "MembersShare", "GroupsEachGetAll", "DrainAcksCount"},
			says: `"key 3", want "key 2"`,
		},
		{
			name: "publishes twice",
			with: faulty{batch: func(msgs []*message.Message) []*message.Message { return append(msgs[:len(msgs):len(msgs)], msgs...) }},
			seen: []string{"MembersShare", "DrainAcksCount", "AcksInAnyOrder"},
			says: "came to",
		},
		{
			name: "drops the key",
			with: faulty{batch: func(msgs []*message.Message) []*message.Message {
				out := make([]*message.Message, len(msgs))
				for i, m := range msgs {
					out[i] = m.Copy()
					delete(out[i].Metadata, events.HeaderKey)
				}
				return out
			}},
			seen: []string{"RoundTrip", "OneUnackedPerKey", "OrderPerKeyOneMember"},
			says: "was changed",
		},
		{
			name: "writes into the publisher's messages",
			with: faulty{batch: func(msgs []*message.Message) []*message.Message {
				for _, m := range msgs {
					m.Metadata["trace"] = "mine"
				}
				return msgs
			}},
			seen: []string{"RoundTrip"},
			says: "was changed",
		},
		{
			name: "confirms everything",
			with: faulty{lie: func(error) error { return nil }},
			seen: []string{"PublishCancelled", "PublishAfterClose", "PublishBadTopic", "Oversize"},
			says: "want a *driver.PublishError",
		},
		{
			name: "returns plain errors",
			with: faulty{lie: func(err error) error {
				if err != nil {
					return errors.New("failed")
				}
				return nil
			}},
			seen: []string{"PublishCancelled", "PublishAfterClose"},
			says: "want a *driver.PublishError",
		},
		{
			name: "is never sure",
			with: faulty{lie: func(err error) error {
				if err != nil {
					return driver.Fail("faulty", "topic", len(driver.Results(err, 3)), driver.Unknown, err)
				}
				return nil
			}},
			seen: []string{"PublishCancelled", "Oversize"},
			says: "want rejected",
		},
		{
			name: "does not drain",
			with: faulty{drain: func(driver.Subscriber, context.Context) error { return nil }},
			seen: []string{"DrainWaitsForWhatIsInFlight", "DrainIsBounded", "DrainIsIdempotent"},
			says: "was not closed",
		},
		{
			name: "drains by closing",
			with: faulty{drain: func(s driver.Subscriber, _ context.Context) error { return s.Close() }},
			seen: []string{"DrainIsBounded"},
			says: "Drain returned nil",
		},
		{
			name: "forgets the context",
			with: faulty{subscribe: func(context.Context) context.Context { return context.Background() }},
			seen: []string{"MessageContext", "CancelClosesTheChannel"},
			says: "want inherited",
		},
		{
			name: "acks what it gives out",
			with: faulty{receive: func(m *message.Message) *message.Message { m.Ack(); return m }},
			seen: []string{"UnackedComesBackAfterClose", "OneUnackedPerKey", "MaxInFlight", "DrainIsBounded", "NackBeforeLaterOfItsKey", "KeysInParallel", "LateAckSettlesNothing"},
		},
		{
			name: "cuts payloads",
			with: faulty{receive: func(m *message.Message) *message.Message { m.Payload = m.Payload[:min(len(m.Payload), 100)]; return m }},
			seen: []string{"RoundTrip"},
			says: "was changed",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := newServer()
			h := drivertest.Harness{
				Open: func(t testing.TB) driver.Backend {
					f := test.with
					f.client = server.open(t).(*client)
					return &f
				},
				Wait: time.Second,
			}
			for i, name := range test.seen {
				failures := drivertest.Case(t, h, name)
				if len(failures) == 0 {
					t.Errorf("%s passes", name)
				} else if i == 0 && !strings.Contains(strings.Join(failures, "\n"), test.says) {
					t.Errorf("%s fails with %q, want %q", name, failures, test.says)
				}
			}
		})
	}
}

// faulty breaks promises of a good backend.
type faulty struct {
	*client
	batch     func([]*message.Message) []*message.Message
	lie       func(error) error
	drain     func(driver.Subscriber, context.Context) error
	subscribe func(context.Context) context.Context
	receive   func(*message.Message) *message.Message
}

func (f *faulty) Publish(ctx context.Context, topic string, msgs ...*message.Message) error {
	if f.batch != nil {
		msgs = f.batch(slices.Clip(msgs))
	}
	err := f.client.Publish(ctx, topic, msgs...)
	if f.lie != nil {
		err = f.lie(err)
	}
	return err
}

func (f *faulty) Subscriber(group string, opts driver.SubscriberOptions) (driver.Subscriber, error) {
	sub, err := f.client.Subscriber(group, opts)
	if err != nil {
		return nil, err
	}
	return &faultySubscriber{Subscriber: sub, faulty: f}, nil
}

type faultySubscriber struct {
	driver.Subscriber
	faulty  *faulty
	running sync.WaitGroup
	once    sync.Once
	stop    chan struct{}
}

func (s *faultySubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if s.faulty.subscribe != nil {
		ctx = s.faulty.subscribe(ctx)
	}
	in, err := s.Subscriber.Subscribe(ctx, topic)
	if err != nil || s.faulty.receive == nil {
		return in, err
	}
	out := make(chan *message.Message)
	s.stop = make(chan struct{})
	s.running.Go(func() {
		defer close(out)
		for m := range in {
			select {
			case out <- s.faulty.receive(m):
			case <-s.stop:
			}
		}
	})
	return out, nil
}

func (s *faultySubscriber) Drain(ctx context.Context) error {
	if s.faulty.drain != nil {
		return s.faulty.drain(s.Subscriber, ctx)
	}
	return s.Subscriber.Drain(ctx)
}

func (s *faultySubscriber) Close() error {
	err := s.Subscriber.Close()
	if s.stop != nil {
		s.once.Do(func() { close(s.stop) })
	}
	s.running.Wait()
	return err
}

// server is a broker in memory that can be down: clients then can't publish or
// ping, and what they read waits.
type server struct {
	memory *membus.Backend

	mu sync.Mutex
	up chan struct{} // closed while up
}

func newServer() *server {
	s := &server{memory: membus.Open(membus.Config{MaxMessageBytes: 1 << 20}), up: make(chan struct{})}
	close(s.up)
	return s
}

func (s *server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up = make(chan struct{})
}

func (s *server) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.up)
}

func (s *server) state() (up <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.up:
		return s.up, nil
	default:
		return s.up, driver.ErrUnavailable
	}
}

func (s *server) open(testing.TB) driver.Backend {
	return &client{Backend: s.memory.Connect(), server: s}
}

type client struct {
	*membus.Backend
	server *server
}

func (c *client) Ping(ctx context.Context) error {
	if _, err := c.server.state(); err != nil {
		return err
	}
	return c.Backend.Ping(ctx)
}

func (c *client) Publish(ctx context.Context, topic string, msgs ...*message.Message) error {
	if _, err := c.server.state(); err != nil {
		return driver.Fail(c.Name(), topic, len(msgs), driver.Rejected, err)
	}
	return c.Backend.Publish(ctx, topic, msgs...)
}

func (c *client) Subscriber(group string, opts driver.SubscriberOptions) (driver.Subscriber, error) {
	sub, err := c.Backend.Subscriber(group, opts)
	if err != nil {
		return nil, err
	}
	return &lateSubscriber{Subscriber: sub, server: c.server, waits: make(map[string]bool)}, nil
}

// lateSubscriber subscribes when the server is up.
type lateSubscriber struct {
	driver.Subscriber
	server *server

	mu    sync.Mutex
	waits map[string]bool
}

func (s *lateSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	up, err := s.server.state()
	if err == nil {
		return s.Subscriber.Subscribe(ctx, topic)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits[topic] = true
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		select {
		case <-up:
		case <-ctx.Done():
			return
		}
		in, err := s.Subscriber.Subscribe(ctx, topic)
		s.mu.Lock()
		delete(s.waits, topic)
		s.mu.Unlock()
		if err != nil {
			return
		}
		for m := range in {
			select {
			case out <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (s *lateSubscriber) State() map[string]driver.SubscriptionState {
	state := s.Subscriber.State()
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic := range s.waits {
		state[topic] = driver.SubscriptionState{LastError: driver.ErrUnavailable.Error()}
	}
	return state
}
