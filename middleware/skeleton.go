package middleware

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/aura360/eventbus/events"
)

type PublishFunc func(ctx context.Context, topic string, msgs ...*message.Message) error

type Publish func(next PublishFunc) PublishFunc

func ChainPublish(f PublishFunc, pieces ...Publish) PublishFunc {
	for i := len(pieces) - 1; i >= 0; i-- {
		f = pieces[i](f)
	}
	return f
}

func passPublish(next PublishFunc) PublishFunc               { return next }
func pass(h message.HandlerFunc) message.HandlerFunc         { return h }
func ValidatePublish(maxBytes int) Publish                   { return passPublish }
func TracePublish(t Tracing) Publish                         { return passPublish }
func MetricsPublish(m *Metrics, system string) Publish       { return passPublish }
func RetryPublish(p RetryPolicy) Publish                     { return passPublish }
func PoisonPublish(sink PoisonSink) Publish                  { return passPublish }
func Guard(log *slog.Logger) message.HandlerMiddleware       { return pass }
func Trace(t Tracing) message.HandlerMiddleware              { return pass }
func Measure(m *Metrics, s string) message.HandlerMiddleware { return pass }
func Deduplicate(marks Marks, log *slog.Logger) message.HandlerMiddleware {
	return pass
}
func Poison(sink PoisonSink, log *slog.Logger) message.HandlerMiddleware { return pass }
func Retry(p RetryPolicy, log *slog.Logger) message.HandlerMiddleware    { return pass }
func Recover() message.HandlerMiddleware                                 { return pass }
func Timeout(d time.Duration) message.HandlerMiddleware                  { return pass }
func CircuitBreaker(cfg BreakerConfig) message.HandlerMiddleware         { return pass }
func Throttle(perSecond float64, burst int) message.HandlerMiddleware    { return pass }
func Concurrency(n int) message.HandlerMiddleware                        { return pass }

type Tracing struct {
	Provider   trace.TracerProvider
	Propagator propagation.TextMapPropagator
	System     string
}
type PoisonSink func(ctx context.Context, msg *message.Message, info PoisonInfo) error
type PoisonInfo struct {
	Reason                               events.Reason
	Err                                  error
	Handler, Group, Topic, Backend, Host string
	Source                               string
	Attempts                             int
	First, Last                          time.Time
}

func PoisonMessage(msg *message.Message, info PoisonInfo, maxBytes int) *message.Message { return msg }

type MarkKey [16]byte
type ClaimState uint8

const (
	Claimed ClaimState = iota
	AlreadyDone
	OtherBody
)

type Claim struct {
	State ClaimState
	Token uint64
}
type Marks interface {
	Claim(ctx context.Context, key MarkKey, body uint64) (Claim, error)
	Renew(ctx context.Context, key MarkKey, token uint64) error
	Done(ctx context.Context, key MarkKey, token uint64) error
	Release(ctx context.Context, key MarkKey, token uint64) error
	Lease() time.Duration
}

var ErrClaimLost = errors.New("claim lost")

type MemoryMarksConfig struct {
	MaxEntries int
	TTL        time.Duration
}
type MemoryMarks struct{}

func NewMemoryMarks(cfg MemoryMarksConfig) *MemoryMarks { return &MemoryMarks{} }

func (m *MemoryMarks) Claim(ctx context.Context, key MarkKey, body uint64) (Claim, error) {
	return Claim{}, nil
}
func (m *MemoryMarks) Renew(ctx context.Context, key MarkKey, token uint64) error   { return nil }
func (m *MemoryMarks) Done(ctx context.Context, key MarkKey, token uint64) error    { return nil }
func (m *MemoryMarks) Release(ctx context.Context, key MarkKey, token uint64) error { return nil }
func (m *MemoryMarks) Lease() time.Duration                                         { return 0 }

type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return "panic" }

type BreakerConfig struct {
	Name     string
	Failures int
	OpenFor  time.Duration
	Probes   int
	Log      *slog.Logger
}

func Permanent(err error) error                         { return err }
func IsPermanent(err error) bool                        { return false }
func RetryAfter(d time.Duration, err error) error       { return err }
func RetryAfterOf(err error) (d time.Duration, ok bool) { return 0, false }
func Unacked(err error) error                           { return err }

type RetryPolicy struct {
	MaxAttempts    int
	Initial, Max   time.Duration
	MaxElapsed     time.Duration
	AttemptTimeout time.Duration
	Sleep func(context.Context, time.Duration) error
}
type Metrics struct{}

func NewMetrics(reg prometheus.Registerer) (*Metrics, error) { return &Metrics{}, nil }

type MetricDoc struct {
	Name, Type string
	Labels     []string
	Help       string
}

func (m *Metrics) Describe() []MetricDoc { return nil }
