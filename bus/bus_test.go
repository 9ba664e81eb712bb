package bus_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/goleak"

	"github.com/aura360/eventbus/bus"
	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/membus"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

func mood(user string) aura360.MoodCreated {
	return aura360.MoodCreated{Base: events.Base{UserID: user}, Data: aura360.Mood{Score: 7}}
}

func openMemory(t *testing.T, cfg bus.Config) *bus.Bus {
	t.Helper()
	cfg.Backend, cfg.Logger = bus.Memory, quiet
	b, err := bus.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// scripted is a backend in memory whose publishes go as a test says.
type scripted struct {
	driver.Backend
	mu      sync.Mutex
	publish func(ctx context.Context, topic string, msgs []*message.Message) error
	ping    error
	topics  []driver.TopicSpec
	sent    map[string][]*message.Message
}

func newScripted() *scripted {
	return &scripted{Backend: membus.Open(membus.Config{Logger: quiet}), sent: map[string][]*message.Message{}}
}

func (s *scripted) Publish(ctx context.Context, topic string, msgs ...*message.Message) error {
	s.mu.Lock()
	f := s.publish
	s.mu.Unlock()
	if f != nil {
		if err := f(ctx, topic, msgs); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent[topic] = append(s.sent[topic], msgs...)
	return nil
}

func (s *scripted) Ping(context.Context) error { return s.ping }

func (s *scripted) EnsureTopic(_ context.Context, spec driver.TopicSpec) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.topics = append(s.topics, spec)
	return nil
}

func openScripted(t *testing.T, s *scripted, cfg bus.Config) *bus.Bus {
	t.Helper()
	cfg.Logger = quiet
	b, err := bus.OpenWith(context.Background(), cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestPublishedMessageCarriesTheWiresHeaders(t *testing.T) {
	s := newScripted()
	b := openScripted(t, s, bus.Config{ServiceName: "mood api"})
	e := mood("user-1")
	e.ID = "id-1"
	if err := b.Publish(context.Background(), e); err != nil {
		t.Fatal(err)
	}
	got := s.sent[aura360.TopicUserEvents][0]
	want := message.Metadata{
		"event_id": "id-1", "event_type": "user.mood.created", "trace_id": "",
		"ce_specversion": "1.0", "ce_id": "id-1", "ce_type": "user.mood.created", "ce_source": "/mood%20api",
		"content-type": "application/json", "eb_key": "user-1",
	}
	if !maps.Equal(got.Metadata, want) || got.UUID != "id-1" {
		t.Errorf("uuid %s, metadata\ngot  %v\nwant %v", got.UUID, got.Metadata, want)
	}
}

func TestTraceOfTheCallerIsOnTheWire(t *testing.T) {
	s := newScripted()
	provider := trace.NewTracerProvider()
	b := openScripted(t, s, bus.Config{TracerProvider: provider})
	ctx, span := provider.Tracer("test").Start(context.Background(), "request")
	defer span.End()
	if err := b.Publish(ctx, mood("u")); err != nil {
		t.Fatal(err)
	}
	m := s.sent[aura360.TopicUserEvents][0]
	id := span.SpanContext().TraceID().String()
	if !strings.Contains(m.Metadata["traceparent"], id) || m.Metadata["trace_id"] != id ||
		!strings.Contains(string(m.Payload), `"trace_id":"`+id+`"`) {
		t.Errorf("trace %s is not in %v or %s", id, m.Metadata, m.Payload)
	}
	if n := len(m.Metadata); n > 12 {
		t.Errorf("%d headers, want at most 12", n)
	}
}

func TestFailedPublishTellsWhetherTheEventMayAppear(t *testing.T) {
	gone := errors.New("connection refused")
	for name, c := range map[string]struct {
		outcome driver.Outcome
		err     error
		want    error
	}{
		"refused for ever": {driver.Rejected, driver.ErrPermanent, bus.ErrNotAccepted},
		"unavailable":      {driver.Rejected, errors.Join(driver.ErrUnavailable, gone), bus.ErrNotAccepted},
		"answer lost":      {driver.Unknown, gone, bus.ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScripted()
				s.publish = func(_ context.Context, topic string, msgs []*message.Message) error {
					if strings.Contains(topic, ".poison.") {
						return nil
					}
					return driver.Fail("memory", topic, len(msgs), c.outcome, c.err)
				}
				b := openScripted(t, s, bus.Config{PublishTimeout: 2 * time.Second})
				e := mood("u")
				e.ID = "my-id"
				err := b.Publish(context.Background(), e)
				var pe *bus.PublishError
				if !errors.As(err, &pe) || pe.ID != "my-id" || pe.Type != "user.mood.created" || pe.Topic != aura360.TopicUserEvents {
					t.Fatalf("error %#v", err)
				}
				other := bus.ErrUnknown
				if errors.Is(c.want, bus.ErrUnknown) {
					other = bus.ErrNotAccepted
				}
				if !errors.Is(err, c.want) || errors.Is(err, other) || !errors.Is(err, c.err) {
					t.Errorf("%v: is %v, is not %v, wraps %v", err, c.want, other, c.err)
				}
			})
		})
	}
}

func TestRefusedEventNamesTheFieldAndSendsNothing(t *testing.T) {
	s := newScripted()
	b := openScripted(t, s, bus.Config{MaxEventBytes: 2000})
	big := mood("u")
	big.Data.Notes = strings.Repeat("x", 3000)
	bad := mood("u")
	bad.Type = "user.activity.created"
	for want, e := range map[string]events.Event{
		"too_large":                     big,
		"field event_type":              bad,
		"field guardian_type: required": aura360.GuardianRequest{Query: "q"},
		"nil event":                     nil,
		"is not defined; it needs: var _ = events.Define[bus": undefined{},
	} {
		err := b.Publish(context.Background(), e)
		if !errors.Is(err, bus.ErrNotAccepted) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if len(s.sent) != 0 {
		t.Errorf("sent %v", s.sent)
	}
}

type undefined struct{ events.Base }

func TestPublishAllReportsEachEvent(t *testing.T) {
	s := newScripted()
	s.publish = func(_ context.Context, topic string, msgs []*message.Message) error {
		if topic != aura360.TopicGuardianRequests {
			return nil
		}
		return driver.Fail("memory", topic, len(msgs), driver.Rejected, driver.ErrPermanent)
	}
	b := openScripted(t, s, bus.Config{})
	ask := aura360.GuardianRequest{Base: events.Base{ID: "ask"}, GuardianType: aura360.GuardianMental, Query: "why?"}
	err := b.PublishAll(context.Background(), mood("a"), ask, aura360.GuardianRequest{}, mood("b"))
	var be *bus.BatchError
	if !errors.As(err, &be) || len(be.Errors) != 4 {
		t.Fatalf("error %v", err)
	}
	for i, ok := range []bool{true, false, false, true} {
		if (be.Errors[i] == nil) != ok {
			t.Errorf("event %d: %v", i, be.Errors[i])
		}
	}
	if !strings.HasPrefix(err.Error(), "2 of 4 events not confirmed; the first: publish guardian.request ask") {
		t.Errorf("error %q", err)
	}
	var keys []string
	for _, m := range s.sent[aura360.TopicUserEvents] {
		keys = append(keys, driver.Key(m))
	}
	if strings.Join(keys, "") != "ab" {
		t.Errorf("sent %v, want a and b in order", keys)
	}
}

func TestWhatTheBrokerRefusesForEverIsKeptInThePoisonQueueOfTheService(t *testing.T) {
	s := newScripted()
	s.publish = func(_ context.Context, topic string, msgs []*message.Message) error {
		if topic == aura360.TopicUserEvents {
			return driver.Fail("memory", topic, len(msgs), driver.Rejected, driver.ErrPermanent)
		}
		return nil
	}
	b := openScripted(t, s, bus.Config{ServiceName: "mood api", Namespace: "prod"})
	if err := b.Publish(context.Background(), mood("u")); !errors.Is(err, bus.ErrNotAccepted) {
		t.Fatal(err)
	}
	kept := s.sent["prod.poison.mood-api"]
	if len(kept) != 1 || kept[0].Metadata[events.HeaderPoisonReason] != string(events.ReasonRejected) {
		t.Fatalf("kept %v", kept)
	}
	want := driver.TopicSpec{Name: "prod.poison.mood-api", Partitions: 1, Retention: 30 * 24 * time.Hour, MaxMessageBytes: 33 << 20}
	if len(s.topics) != 1 || s.topics[0] != want {
		t.Errorf("topics %+v, want %+v", s.topics, want)
	}
}

func TestPoisonMessageTooLargeForTheBrokerIsKeptCut(t *testing.T) {
	s := newScripted()
	s.publish = func(_ context.Context, topic string, msgs []*message.Message) error {
		if len(msgs[0].Payload) > 1<<20 {
			return driver.Fail("memory", topic, 1, driver.Rejected, driver.ErrPermanent)
		}
		return nil
	}
	b := openScripted(t, s, bus.Config{})
	msg := message.NewMessage("u", make([]byte, 5<<20))
	info := poisonInfo("g")
	if err := b.Parts().Poison(context.Background(), msg, info); err != nil {
		t.Fatal(err)
	}
	kept := s.sent["eventbus.poison.g"]
	if len(kept) != 1 || kept[0].Metadata[events.HeaderPoisonSize] != "5242880" || kept[0].Metadata[events.HeaderPoisonSHA256] == "" {
		t.Fatalf("kept %d messages, metadata %v", len(kept), kept[0].Metadata)
	}
}

func TestClosedBusRefusesAndSaysSo(t *testing.T) {
	b := openMemory(t, bus.Config{})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	err := b.Publish(context.Background(), mood("u"))
	if !errors.Is(err, bus.ErrClosed) || !errors.Is(err, bus.ErrNotAccepted) {
		t.Errorf("publish after close: %v", err)
	}
	if err := b.PublishAll(context.Background(), mood("u"), mood("v")); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("batch after close: %v", err)
	}
	if err := b.Publisher().Publish("t", message.NewMessage("", nil)); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("raw publish after close: %v", err)
	}
	if _, err := b.Subscriber("g").Subscribe(context.Background(), "t"); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("subscribe after close: %v", err)
	}
	if h := b.Health(context.Background()); h.Status != bus.StatusDown || h.Error != "bus is closed" {
		t.Errorf("health %+v", h)
	}
}

func TestShutdownWaitsForPublishesUnderWayWithinItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		release := make(chan struct{})
		s.publish = func(context.Context, string, []*message.Message) error { <-release; return nil }
		b := openScripted(t, s, bus.Config{})
		published := make(chan error, 1)
		go func() { published <- b.Publish(context.Background(), mood("u")) }()
		synctest.Wait()

		short, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		first := make(chan error, 1)
		go func() { first <- b.Shutdown(short) }()
		synctest.Wait()
		if err := b.Publish(context.Background(), mood("v")); !errors.Is(err, bus.ErrClosed) {
			t.Errorf("publish while closing: %v", err)
		}
		if err := <-first; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		close(release)
		if err := <-published; err != nil {
			t.Errorf("the publish under way: %v", err)
		}
		if err := b.Shutdown(context.Background()); err != nil {
			t.Errorf("second Shutdown: %v", err)
		}
	})
}

func TestDisabledDiscardsAndConsumesNothing(t *testing.T) {
	var log strings.Builder
	b, err := bus.Open(context.Background(), bus.Config{Backend: bus.Disabled, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	e := mood("secret-user")
	e.ID = "the-id"
	if err := b.Publish(context.Background(), e); err != nil {
		t.Error(err)
	}
	sub := b.Subscriber("g")
	msgs, err := sub.Subscribe(context.Background(), aura360.TopicUserEvents)
	if err != nil {
		t.Fatal(err)
	}
	if h := b.Health(context.Background()); h.Status != bus.StatusOK || len(h.Subscriptions) != 1 {
		t.Errorf("health %+v", h)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, open := <-msgs; open {
		t.Error("a message was delivered")
	}
	if got := log.String(); !strings.Contains(got, "event_id=the-id") || strings.Contains(got, "secret-user") {
		t.Errorf("log %s", got)
	}
}

func TestHTTPHandlerTellsHowTheBusIs(t *testing.T) {
	s := newScripted()
	b := openScripted(t, s, bus.Config{ServiceName: "api"})
	srv := httptest.NewServer(b.Handler())
	defer srv.Close()
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if err := b.Publish(context.Background(), mood("u")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "ok",
		"/health":  `"status": "ok",` + "\n" + `  "messaging_backend": "memory"`,
		"/status":  `"service": "api"`,
		"/metrics": `messaging_client_sent_messages_total{`,
	} {
		if code, body := get(path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %q", path, code, body, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()

	down := newScripted()
	down.ping = errors.New("connection refused")
	d := openScripted(t, down, bus.Config{})
	rec := httptest.NewRecorder()
	d.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if rec.Code != 503 || !strings.Contains(rec.Body.String(), "connection refused") {
		t.Errorf("/readyz while down: %d %s", rec.Code, rec.Body)
	}
	rec = httptest.NewRecorder()
	d.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/health", nil))
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), `"status": "down"`) {
		t.Errorf("/health while down: %d %s", rec.Code, rec.Body)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if code, _ := get("/healthz"); code != 503 {
		t.Errorf("/healthz of a closed bus: %d", code)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestDefaultBusIsOpenedFromTheEnvironmentOnce(t *testing.T) {
	t.Setenv("MESSAGING_BACKEND", "nonsense")
	defer bus.SetDefault(bus.SetDefault(nil))
	if err := bus.Publish(context.Background(), mood("u")); !errors.Is(err, bus.ErrNotAccepted) ||
		!strings.Contains(err.Error(), `MESSAGING_BACKEND="nonsense"`) {
		t.Errorf("publish without a usable environment: %v", err)
	}
	t.Setenv("MESSAGING_BACKEND", "memory")
	if err := bus.Publish(context.Background(), mood("u")); err != nil {
		t.Fatal(err)
	}
	first, err := bus.Default(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.PublishAll(context.Background(), mood("u")); err != nil {
		t.Error(err)
	}
	if again, _ := bus.Default(context.Background()); again != first {
		t.Error("the default bus was opened twice")
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
}

func TestPlainWatermillPublisherAndSubscriber(t *testing.T) {
	b := openMemory(t, bus.Config{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	sub := b.Subscriber("g")
	msgs, err := sub.Subscribe(ctx, "plain")
	if err != nil {
		t.Fatal(err)
	}
	in := message.NewMessage("uuid", []byte("hello"))
	in.Metadata["a"] = "b"
	if err := b.Publisher().Publish("plain", in); err != nil {
		t.Fatal(err)
	}
	out := <-msgs
	if out == nil || out.UUID != "uuid" || string(out.Payload) != "hello" || out.Metadata["a"] != "b" {
		t.Fatalf("got %v", out)
	}
	out.Ack()
	if err := sub.Close(); err != nil {
		t.Error(err)
	}
	if _, err := b.Subscriber("a b").Subscribe(ctx, "plain"); err == nil {
		t.Error("an impossible group was accepted")
	}
}

// stuckSubscriber is one whose Close waits for a broker that does not answer.
type stuckSubscriber struct {
	driver.Subscriber
	answers chan struct{}
}

func (s stuckSubscriber) Close() error {
	<-s.answers
	return s.Subscriber.Close()
}

type stuckBackend struct {
	*scripted
	answers chan struct{}
}

func (b stuckBackend) Subscriber(group string, opts driver.SubscriberOptions) (driver.Subscriber, error) {
	s, err := b.scripted.Subscriber(group, opts)
	return stuckSubscriber{s, b.answers}, err
}

func TestShutdownIsBoundedWhenASubscriberIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := stuckBackend{newScripted(), make(chan struct{})}
		b, err := bus.OpenWith(t.Context(), bus.Config{Logger: quiet}, backend)
		if err != nil {
			t.Fatal(err)
		}
		ch, err := b.Subscriber("g").Subscribe(t.Context(), "t")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = b.Shutdown(ctx)
		}()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Error("Shutdown still waits a minute after its bound")
		}
		close(backend.answers)
		<-done
		if _, ok := <-ch; ok {
			t.Error("a message")
		}
	})
}

// listening is a backend whose Ping ends with its context.
type listening struct{ *scripted }

func (listening) Ping(ctx context.Context) error { return ctx.Err() }

func TestAProbeThatWentAwaySaysNothingAboutTheBroker(t *testing.T) {
	b, err := bus.OpenWith(t.Context(), bus.Config{Logger: quiet}, listening{newScripted()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	gone, leave := context.WithCancel(t.Context())
	leave()
	b.Health(gone)
	if h := b.Health(t.Context()); h.Status != bus.StatusOK {
		t.Errorf("the next probe is told %s: %s", h.Status, h.Error)
	}
}

func TestAPoisonTopicThatWasDeletedIsCreatedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		want := 1 // times the topic must have been created
		s.publish = func(_ context.Context, topic string, _ []*message.Message) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.topics) < want {
				return driver.Fail("memory", topic, 1, driver.Rejected, errors.New("no such topic"))
			}
			return nil
		}
		b := openScripted(t, s, bus.Config{})
		put := func() error {
			return b.Parts().Poison(t.Context(), message.NewMessage("u", nil), poisonInfo("g"))
		}
		if err := put(); err != nil {
			t.Fatal(err)
		}
		want = 2
		if err := put(); err == nil {
			t.Fatal("it was put into a topic that is gone")
		}
		if err := put(); err != nil {
			t.Errorf("the topic was not created again: %v", err)
		}
	})
}

// keeping is a backend whose storage is held by groups.
type keeping struct {
	driver.Backend
	held []driver.HeldBack
}

func (k *keeping) HeldBack() []driver.HeldBack { return k.held }

func TestHealthNamesTheGroupsThatHoldStorage(t *testing.T) {
	k := &keeping{Backend: newScripted()}
	b, err := bus.OpenWith(t.Context(), bus.Config{Logger: quiet}, k)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, abandoned := range []bool{false, true} {
		k.held = []driver.HeldBack{{Topic: "orders", Group: "g", Messages: 7, Abandoned: abandoned}}
		want := bus.StatusOK
		if abandoned {
			want = bus.StatusDegraded
		}
		if h := b.Health(t.Context()); h.Status != want || !reflect.DeepEqual(h.HeldBack, k.held) {
			t.Errorf("abandoned %v: %s, %+v", abandoned, h.Status, h.HeldBack)
		}
	}
}
