package bus

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/middleware"
)

// closeTimeout bounds Close.
const closeTimeout = 30 * time.Second

// Bus publishes and subscribes on one backend. It is safe for concurrent use.
type Bus struct {
	cfg      Config
	log      *slog.Logger
	backend  driver.Backend
	metrics  *middleware.Metrics
	tracing  middleware.Tracing
	marks    middleware.Marks
	send     middleware.PublishFunc // the publish chain, ending in the driver
	sendRaw  middleware.PublishFunc // the same for plain messages, which are validated first
	poison   poisonQueue
	retries  retryTopics
	health   healthCache
	source   string // CloudEvents source
	instance string
	started  time.Time

	inUse sends

	subsMu sync.Mutex
	subs   map[*subscription]struct{} // open subscribers, for /status
}

// FromEnv opens the bus that the environment describes: ConfigFromEnv, then Open.
func FromEnv(ctx context.Context) (*Bus, error) {
	cfg, err := ConfigFromEnv()
	if err != nil {
		return nil, err
	}
	return Open(ctx, cfg)
}

// Open opens a bus. It checks the configuration (the error then is a
// *ConfigError with everything that is wrong) and does no I/O that a broker has
// to answer: it succeeds while the broker is down, connects in the background,
// and Health tells. ctx bounds opening only.
func Open(ctx context.Context, cfg Config) (*Bus, error) {
	if problems := cfg.complete(); problems != nil {
		return nil, problems
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
	}
	if cfg.Propagator == nil {
		cfg.Propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	}
	backend, err := openBackend(cfg)
	if err != nil {
		return nil, err
	}
	return assemble(cfg, backend)
}

// OpenWith opens a bus on a backend that the caller made, such as a test
// harness or a driver of one's own; cfg.Backend is ignored. The bus owns the
// backend from here on, and closes it.
func OpenWith(ctx context.Context, cfg Config, backend driver.Backend) (*Bus, error) {
	cfg.Backend = Memory // satisfies the check; the given backend names itself
	if problems := cfg.complete(); problems != nil {
		return nil, problems
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
	}
	cfg.Backend = backend.Name()
	return assemble(cfg, backend)
}

func assemble(cfg Config, backend driver.Backend) (*Bus, error) {
	metrics, err := middleware.NewMetrics(cfg.Registry)
	if err != nil {
		return nil, errors.Join(err, backend.Close(context.Background()))
	}
	b := &Bus{
		cfg:      cfg,
		log:      cfg.Logger.With("backend", backend.Name()),
		backend:  backend,
		metrics:  metrics,
		tracing:  middleware.Tracing{Provider: cfg.TracerProvider, Propagator: cfg.Propagator, System: systemOf(backend.Name())},
		source:   events.SourceOf(cfg.ServiceName),
		instance: instanceName(cfg.ServiceName),
		started:  time.Now(),
		subs:     map[*subscription]struct{}{},
	}
	b.marks = middleware.NewMemoryMarks(middleware.MemoryMarksConfig{MaxEntries: cfg.DedupEntries, TTL: cfg.DedupTTL})
	b.health.ping = backend.Ping
	own := newOwnTopics(b)
	b.poison.own, b.retries.own = own, own
	b.send = b.publishChain()
	b.sendRaw = middleware.ValidatePublish(cfg.MaxEventBytes)(b.send)
	return b, nil
}

// systemOf is the value of OpenTelemetry's messaging.system attribute.
func systemOf(backend string) string {
	if backend == Memory {
		return "gochannel" // the nearest name that operators' tools know
	}
	return backend
}

func instanceName(service string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	id := events.NewID()
	return service + "-" + host + "-" + id[len(id)-8:]
}

// Parts are the pieces a bus is made of, for package router and for those who
// build a consumer of their own on the bus's backend.
type Parts struct {
	Config   Config // complete: every default filled
	Backend  driver.Backend
	Instance string // this process among a group's members
	Metrics  *middleware.Metrics
	Tracing  middleware.Tracing
	Marks    middleware.Marks
	Poison   middleware.PoisonSink // puts a message into its group's poison queue
	Delay    middleware.DelaySink  // puts a message into one of its group's retry topics
	// EnsureRetryTopic creates the group's retry topic for delay if it is missing.
	EnsureRetryTopic func(ctx context.Context, group string, delay time.Duration) error
	Log              *slog.Logger
}

// Parts returns what the bus is made of. They stay the bus's: do not close them.
func (b *Bus) Parts() Parts {
	return Parts{
		Config: b.cfg, Backend: b.backend, Instance: b.instance, Metrics: b.metrics,
		Tracing: b.tracing, Marks: b.marks, Poison: b.poison.put,
		Delay: b.retries.put, EnsureRetryTopic: b.retries.ensure, Log: b.log,
	}
}

// Close is Shutdown with a bound of 30 s.
func (b *Bus) Close() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), closeTimeout,
		errors.New("bus did not close within 30 s"))
	defer cancel()
	return b.Shutdown(ctx)
}

// Shutdown stops accepting events (a publish after it is ErrClosed), waits for
// the publishes that are under way until ctx ends, then closes the subscribers
// that are still open and releases the backend. Calling it again waits for the
// first call and returns nil. A router is stopped by the context of its Run,
// which should end before: messages still being handled here are handled again.
func (b *Bus) Shutdown(ctx context.Context) error {
	first, idle := b.inUse.close()
	if !first {
		select {
		case <-b.inUse.released:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer close(b.inUse.released)
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	// The backend closes the subscribers, all at once and within ctx.
	return errors.Join(err, b.backend.Close(ctx))
}

// sends counts the publishes under way, and refuses new ones once closed.
//
// state is the count, plus closedBit once closed. A publish that saw no
// closedBit in the same atomic step that counted it is waited for: the one that
// brings the count of a closed bus to zero closes idle.
type sends struct {
	state    atomic.Int64
	idle     chan struct{}
	released chan struct{} // closed when the first Shutdown is through
	once     sync.Once
}

const closedBit = int64(1) << 62

func (s *sends) init() {
	s.once.Do(func() { s.idle, s.released = make(chan struct{}), make(chan struct{}) })
}

func (s *sends) begin() bool {
	if s.state.Add(1)&closedBit != 0 {
		s.end()
		return false
	}
	return true
}

func (s *sends) end() {
	if s.state.Add(-1) == closedBit {
		s.init()
		s.idleOnce()
	}
}

// idleOnce closes idle; a refused publish can bring the count to zero again.
func (s *sends) idleOnce() {
	if s.state.CompareAndSwap(closedBit, closedBit|idleBit) {
		close(s.idle)
	}
}

const idleBit = int64(1) << 61

func (s *sends) close() (first bool, idle <-chan struct{}) {
	s.init()
	for {
		old := s.state.Load()
		if old&closedBit != 0 {
			return false, s.idle
		}
		if s.state.CompareAndSwap(old, old|closedBit) {
			if old == 0 {
				s.idleOnce()
			}
			return true, s.idle
		}
	}
}

func (s *sends) closed() bool { return s.state.Load()&closedBit != 0 }
