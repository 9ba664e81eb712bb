package middleware

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

// Metrics holds the metrics of both paths. Names follow OpenTelemetry's
// messaging conventions in Prometheus form where those have one. Labels come
// from small closed sets; none ever holds an id.
type Metrics struct {
	sent       *prometheus.CounterVec
	sendTime   *prometheus.HistogramVec
	retries    *prometheus.CounterVec
	unknown    *prometheus.CounterVec
	consumed   *prometheus.CounterVec
	handleTime *prometheus.HistogramVec
	age        *prometheus.HistogramVec
	inFlight   *prometheus.GaugeVec
	duplicates *prometheus.CounterVec
	ignored    *prometheus.CounterVec
	poisoned   *prometheus.CounterVec
	again      *prometheus.CounterVec
	parked     *prometheus.CounterVec
	resumed    *prometheus.CounterVec
	marksFail  *prometheus.CounterVec
	otherBody  *prometheus.CounterVec

	docs    []MetricDoc
	sending seriesCache[sendKey, sendSeries]
	reading seriesCache[readKey, readSeries]
}

// MetricDoc describes one metric, for docs/metrics.md.
type MetricDoc struct {
	Name   string
	Type   string // counter, gauge or histogram
	Labels []string
	Help   string
}

// Label names.
const (
	labelSystem      = "messaging_system"
	labelDestination = "messaging_destination_name"
	labelGroup       = "messaging_consumer_group_name"
	labelEventType   = "event_type"
	labelOutcome     = "outcome"
	labelReason      = "reason"
	labelHandler     = "handler"
	labelDelay       = "delay"
)

var (
	durationBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	ageBuckets      = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21600, 86400}
)

// NewMetrics registers the metrics with reg; nil keeps them to itself. Metrics
// that reg already has are used, so that several buses of one process share
// them. It fails when a name is taken by something else.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{}
	r := registration{reg: reg, docs: &m.docs}
	send := []string{labelSystem, labelDestination}
	read := []string{labelSystem, labelDestination, labelGroup}
	with := func(base []string, more ...string) []string { return append(slices.Clone(base), more...) }

	m.sent = r.counter("messaging_client_sent_messages_total",
		"Messages published, by what became of them: confirmed, rejected (not in the broker) or unknown (may appear).",
		with(send, labelEventType, labelOutcome))
	m.sendTime = r.histogram("messaging_client_operation_duration_seconds",
		"Time of one publish, of one message or a batch, with its retries; by the worst outcome in it.",
		with(send, labelOutcome), durationBuckets)
	m.retries = r.counter("eventbus_publish_retries_total",
		"Messages sent again after a try that did not confirm them.", send)
	m.unknown = r.counter("eventbus_publish_unknown_total",
		"Messages whose publisher was told that they may or may not be in the broker.", send)
	m.consumed = r.counter("messaging_client_consumed_messages_total",
		"Messages delivered, by what became of them: handled, duplicate, ignored, poisoned, parked for a delayed retry or unacked.",
		with(read, labelEventType, labelOutcome))
	m.handleTime = r.histogram("messaging_process_duration_seconds",
		"Time from delivery to ack, with retries and waits.",
		with(read, labelEventType, labelOutcome), durationBuckets)
	m.age = r.histogram("eventbus_time_since_publish_seconds",
		"Time from an event's timestamp to the end of its handling.", read, ageBuckets)
	m.inFlight = r.gauge("eventbus_in_flight_messages",
		"Messages delivered and not yet acked.", read)
	m.duplicates = r.counter("eventbus_duplicates_total",
		"Copies of an event that were acked without handling.", read)
	m.ignored = r.counter("eventbus_ignored_total",
		"Messages acked because no handler here takes their type, or because they are meant for another group.", read)
	m.poisoned = r.counter("eventbus_poisoned_total",
		"Messages put into the poison queue. The group is empty for what could not be published.",
		with(read, labelReason))
	m.again = r.counter("eventbus_handler_retries_total",
		"Tries of a handler after its first for a message.", read)
	m.parked = r.counter("eventbus_parked_messages_total",
		"Messages put off for a delayed retry after their tries failed, by the delay of the ladder that they wait for.",
		with(read, labelHandler, labelDelay))
	m.resumed = r.counter("eventbus_delayed_retries_total",
		"Messages taken up again after such a delay.", with(read, labelHandler, labelDelay))
	m.marksFail = r.counter("eventbus_dedup_store_errors_total",
		"Messages for which the store of marks failed: they may be handled twice.", read)
	m.otherBody = r.counter("eventbus_same_id_other_body_total",
		"Events handled although their id came before, with another body.", read)
	if r.err != nil {
		return nil, r.err
	}
	m.sending.make = m.newSendSeries
	m.reading.make = m.newReadSeries
	return m, nil
}

// Describe returns what is registered, in a fixed order.
func (m *Metrics) Describe() []MetricDoc { return slices.Clone(m.docs) }

// registration registers collectors until the first error.
type registration struct {
	reg  prometheus.Registerer
	docs *[]MetricDoc
	err  error
}

func (r *registration) counter(name, help string, labels []string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	return register(r, c, MetricDoc{name, "counter", labels, help})
}

func (r *registration) gauge(name, help string, labels []string) *prometheus.GaugeVec {
	c := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	return register(r, c, MetricDoc{name, "gauge", labels, help})
}

func (r *registration) histogram(name, help string, labels []string, buckets []float64) *prometheus.HistogramVec {
	c := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	return register(r, c, MetricDoc{name, "histogram", labels, help})
}

func register[C prometheus.Collector](r *registration, c C, doc MetricDoc) C {
	*r.docs = append(*r.docs, doc)
	if r.reg == nil || r.err != nil {
		return c
	}
	err := r.reg.Register(c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if old, ok := there.ExistingCollector.(C); ok {
			return old
		}
	}
	r.err = err
	return c
}

// maxSeries bounds the combinations of label values that one cache, and so
// Prometheus, sees. Topics come from code and configuration, but a raw Watermill
// publisher may make names up.
const (
	maxSeries  = 2000
	otherTopic = "_other"
)

// seriesCache finds the resolved metrics of a combination of labels without
// hashing it per metric. Reading takes no lock; a new combination copies the map.
type seriesCache[K comparable, V any] struct {
	make func(K) *V
	all  atomic.Pointer[map[K]*V]
	mu   sync.Mutex // serialises writers
}

func (c *seriesCache[K, V]) get(k K) (*V, bool) {
	if m := c.all.Load(); m != nil {
		v, ok := (*m)[k]
		return v, ok
	}
	return nil, false
}

// add returns the series of k or, when there are too many, of other.
func (c *seriesCache[K, V]) add(k, other K) *V {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.all.Load()
	if old != nil && len(*old) >= maxSeries {
		k = other
	}
	next := map[K]*V{}
	if old != nil {
		if v, ok := (*old)[k]; ok {
			return v
		}
		for ok, ov := range *old {
			next[ok] = ov
		}
	}
	v := c.make(k)
	next[k] = v
	c.all.Store(&next)
	return v
}

type sendKey struct{ system, topic, eventType string }

type sendSeries struct {
	sent [3]prometheus.Counter // by driver.Outcome
	time [3]prometheus.Observer
}

func (m *Metrics) newSendSeries(k sendKey) *sendSeries {
	s := &sendSeries{}
	for o := range driver.Unknown + 1 {
		s.sent[o] = m.sent.WithLabelValues(k.system, k.topic, k.eventType, o.String())
		s.time[o] = m.sendTime.WithLabelValues(k.system, k.topic, o.String())
	}
	return s
}

func (m *Metrics) sendSeries(system, topic, eventType string) *sendSeries {
	k := sendKey{system, topic, eventType}
	if s, ok := m.sending.get(k); ok {
		return s
	}
	return m.sending.add(k, sendKey{system, otherTopic, ""})
}

type readKey struct{ system, topic, group, eventType string }

// readSeries makes an outcome's series when it first occurs: a histogram is
// many series, and most types are only ever handled.
type readSeries struct {
	labels   readKey
	inFlight prometheus.Gauge
	age      prometheus.Observer
	outcomes [6]atomic.Pointer[outcomeSeries]
}

type outcomeSeries struct {
	count prometheus.Counter
	time  prometheus.Observer
}

func (m *Metrics) newReadSeries(k readKey) *readSeries {
	s := &readSeries{labels: k}
	s.inFlight = m.inFlight.WithLabelValues(k.system, k.topic, k.group)
	s.age = m.age.WithLabelValues(k.system, k.topic, k.group)
	return s
}

func (m *Metrics) readSeries(k readKey) *readSeries {
	if s, ok := m.reading.get(k); ok {
		return s
	}
	return m.reading.add(k, readKey{k.system, otherTopic, k.group, ""})
}

// lastSeries remembers the series that one place used last. Most messages of a
// topic have the type of the one before, and comparing is quicker than hashing.
type lastSeries struct{ last atomic.Pointer[readSeries] }

func (l *lastSeries) of(m *Metrics, k readKey) *readSeries {
	if s := l.last.Load(); s != nil && s.labels == k {
		return s
	}
	s := m.readSeries(k)
	l.last.Store(s)
	return s
}

func (m *Metrics) outcome(s *readSeries, o Outcome) *outcomeSeries {
	at := &s.outcomes[outcomeIndex(o)]
	if out := at.Load(); out != nil {
		return out
	}
	k := s.labels
	out := &outcomeSeries{
		count: m.consumed.WithLabelValues(k.system, k.topic, k.group, k.eventType, string(o)),
		time:  m.handleTime.WithLabelValues(k.system, k.topic, k.group, k.eventType, string(o)),
	}
	at.Store(out) // the same collectors, whoever is first
	return out
}

func outcomeIndex(o Outcome) int {
	switch o {
	case OutcomeHandled:
		return 0
	case OutcomeDuplicate:
		return 1
	case OutcomeIgnored:
		return 2
	case OutcomePoisoned:
		return 3
	case OutcomeParked:
		return 4
	default:
		return 5
	}
}

// reasonLabel keeps the label's set closed, whatever a piece of the user's sets.
func reasonLabel(r events.Reason) string {
	switch r {
	case events.ReasonUndecodable, events.ReasonInvalid, events.ReasonVersion, events.ReasonUnknownType,
		events.ReasonTooLarge, events.ReasonMalformed, events.ReasonPermanent, events.ReasonPanic,
		events.ReasonExhausted, events.ReasonRejected, events.ReasonNoHandler:
		return string(r)
	}
	return "other"
}
