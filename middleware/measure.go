package middleware

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

// MetricsPublish counts messages by outcome and measures what the caller waits.
// system is the messaging_system label. The event type is a label only when it is
// defined in this process.
//
// It stands outside RetryPublish, so that a message counts once, and inside
// TracePublish.
func MetricsPublish(m *Metrics, system string) Publish {
	return func(next PublishFunc) PublishFunc {
		return func(ctx context.Context, topic string, msgs ...*message.Message) error {
			if len(msgs) == 0 {
				return next(ctx, topic)
			}
			report := &sending{Context: ctx}
			start := time.Now()
			err := next(report, topic, msgs...)
			took := time.Since(start).Seconds()

			if err == nil {
				m.countConfirmed(system, topic, msgs, took)
			} else {
				m.countResults(system, topic, msgs, driver.Results(err, len(msgs)), took)
			}
			if report.retries > 0 {
				m.retries.WithLabelValues(system, m.topicLabel(system, topic)).Add(float64(report.retries))
			}
			if report.poisoned > 0 {
				m.poisoned.WithLabelValues(system, m.topicLabel(system, topic), "", string(events.ReasonRejected)).
					Add(float64(report.poisoned))
			}
			return err
		}
	}
}

// countConfirmed adds runs of one event type in one step: a batch seldom has
// several.
func (m *Metrics) countConfirmed(system, topic string, msgs []*message.Message, took float64) {
	typ, n := eventTypeOf(msgs[0]), 1
	for _, msg := range msgs[1:] {
		if t := eventTypeOf(msg); t != typ {
			m.sendSeries(system, topic, typ).sent[driver.Confirmed].Add(float64(n))
			typ, n = t, 0
		}
		n++
	}
	s := m.sendSeries(system, topic, typ)
	s.sent[driver.Confirmed].Add(float64(n))
	s.time[driver.Confirmed].Observe(took)
}

func (m *Metrics) countResults(system, topic string, msgs []*message.Message, results []driver.Result, took float64) {
	unknown := 0
	for i, r := range results {
		m.sendSeries(system, topic, eventTypeOf(msgs[i])).sent[min(r.Outcome, driver.Unknown)].Inc()
		if r.Outcome == driver.Unknown {
			unknown++
		}
	}
	m.sendSeries(system, topic, eventTypeOf(msgs[0])).time[worst(results)].Observe(took)
	if unknown > 0 {
		m.unknown.WithLabelValues(system, m.topicLabel(system, topic)).Add(float64(unknown))
	}
}

// topicLabel is topic or, past the bound of series, otherTopic.
func (m *Metrics) topicLabel(system, topic string) string {
	if all := m.sending.all.Load(); all != nil && len(*all) >= maxSeries {
		for k := range *all {
			if k.system == system && k.topic == topic {
				return topic
			}
		}
		return otherTopic
	}
	return topic
}

// Measure counts messages by outcome, and measures how long they take, how old
// their events are, and how many are in flight. system is the messaging_system
// label of a delivery that does not name its backend.
//
// It stands inside Trace and outside all that decides about the message.
func Measure(m *Metrics, system string) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		var arrived, dispatched lastSeries
		return func(msg *message.Message) (out []*message.Message, err error) {
			d := deliveryOf(msg)
			before := arrived.of(m, readKey{systemOf(d.Backend, system), d.Topic, d.Group, d.EventType})
			before.inFlight.Inc()
			start := time.Now()
			panicked := true
			defer func() {
				before.inFlight.Dec()
				s := before
				if d.EventType != s.labels.eventType && s.labels.topic == d.Topic { // dispatched meanwhile
					s = dispatched.of(m, readKey{s.labels.system, d.Topic, d.Group, d.EventType})
				}
				m.count(d, s, start, outcomeOf(d, err, panicked))
			}()
			out, err = next(msg)
			panicked = false
			return out, err
		}
	}
}

func (m *Metrics) count(d *Delivery, s *readSeries, start time.Time, outcome Outcome) {
	d.Outcome = outcome
	took := time.Since(start)
	o := m.outcome(s, outcome)
	o.count.Inc()
	o.time.Observe(took.Seconds())
	if e, ok := d.Event.(events.Event); ok {
		if t := events.BaseOf(e).Timestamp; !t.IsZero() {
			// A publisher's clock may be ahead of ours.
			s.age.Observe(max(start.Add(took).Sub(t).Seconds(), 0))
		}
	}
	k := s.labels
	switch outcome {
	case OutcomeDuplicate:
		m.duplicates.WithLabelValues(k.system, k.topic, k.group).Inc()
	case OutcomeIgnored:
		m.ignored.WithLabelValues(k.system, k.topic, k.group).Inc()
	case OutcomePoisoned:
		m.poisoned.WithLabelValues(k.system, k.topic, k.group, reasonLabel(d.Reason)).Inc()
	}
	if again := d.Attempt - d.resumed - 1; again > 0 {
		m.again.WithLabelValues(k.system, k.topic, k.group).Add(float64(again))
	}
	if d.MarksFailed {
		m.marksFail.WithLabelValues(k.system, k.topic, k.group).Inc()
	}
	if d.OtherBody {
		m.otherBody.WithLabelValues(k.system, k.topic, k.group).Inc()
	}
}
