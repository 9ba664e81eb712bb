package middleware

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/events"
)

func TestMeasureCountsEveryOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		m, err := NewMetrics(reg)
		if err != nil {
			t.Fatal(err)
		}
		var inFlight float64
		run := func(backend string, after func(d *Delivery) error) {
			msg := event(t.Context(), "1", "{}")
			d := Begin(msg, backend, "group", "topic")
			_, _ = Measure(m, "celery")(func(*message.Message) ([]*message.Message, error) {
				inFlight = testutil.ToFloat64(m.inFlight.WithLabelValues(systemOf(backend, "celery"), "topic", "group"))
				return nil, after(d)
			})(msg)
		}
		run("kafka", func(d *Delivery) error {
			d.EventType = "bench.event" // dispatched inside
			d.Event = benchEvent{Base: events.Base{Timestamp: time.Now().Add(-3 * time.Second)}}
			time.Sleep(20 * time.Millisecond) // virtual
			return nil
		})
		run("kafka", func(d *Delivery) error { d.Outcome = OutcomeDuplicate; return nil })
		run("kafka", func(d *Delivery) error { d.Outcome = OutcomeIgnored; return nil })
		run("kafka", func(d *Delivery) error {
			d.Outcome, d.Reason, d.Attempt = OutcomePoisoned, events.ReasonVersion, 4
			return nil
		})
		run("kafka", func(d *Delivery) error { d.Outcome, d.Reason = OutcomePoisoned, "made up"; return nil })
		run("memory", func(*Delivery) error { return errBoom })
		run("", func(d *Delivery) error { d.MarksFailed, d.OtherBody, d.Outcome = true, true, "made up"; return nil })
		if inFlight != 1 {
			t.Errorf("in flight %v", inFlight)
		}
		const lines = `
# HELP eventbus_dedup_store_errors_total Messages for which the store of marks failed: they may be handled twice.
# TYPE eventbus_dedup_store_errors_total counter
eventbus_dedup_store_errors_total{messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="celery"} 1
# HELP eventbus_handler_retries_total Tries of a handler after its first for a message.
# TYPE eventbus_handler_retries_total counter
eventbus_handler_retries_total{messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="kafka"} 3
# HELP eventbus_in_flight_messages Messages delivered and not yet acked.
# TYPE eventbus_in_flight_messages gauge
eventbus_in_flight_messages{messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="celery"} 0
eventbus_in_flight_messages{messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="gochannel"} 0
eventbus_in_flight_messages{messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="kafka"} 0
# HELP eventbus_poisoned_total Messages put into the poison queue. The group is empty for what could not be published.
# TYPE eventbus_poisoned_total counter
eventbus_poisoned_total{messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="kafka",reason="other"} 1
eventbus_poisoned_total{messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="kafka",reason="version"} 1
# HELP eventbus_same_id_other_body_total Events handled although their id came before, with another body.
# TYPE eventbus_same_id_other_body_total counter
eventbus_same_id_other_body_total{messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="celery"} 1
# HELP messaging_client_consumed_messages_total Messages delivered, by what became of them: handled, duplicate, ignored, poisoned, parked for a delayed retry or unacked.
# TYPE messaging_client_consumed_messages_total counter
messaging_client_consumed_messages_total{event_type="",messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="celery",outcome="handled"} 1
messaging_client_consumed_messages_total{event_type="",messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="gochannel",outcome="unacked"} 1
messaging_client_consumed_messages_total{event_type="",messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="kafka",outcome="duplicate"} 1
messaging_client_consumed_messages_total{event_type="",messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="kafka",outcome="ignored"} 1
messaging_client_consumed_messages_total{event_type="",messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="kafka",outcome="poisoned"} 2
messaging_client_consumed_messages_total{event_type="bench.event",messaging_consumer_group_name="group",messaging_destination_name="topic",messaging_system="kafka",outcome="handled"} 1
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(lines), "eventbus_dedup_store_errors_total", "eventbus_handler_retries_total",
			"eventbus_in_flight_messages", "eventbus_poisoned_total", "eventbus_same_id_other_body_total", "messaging_client_consumed_messages_total"); err != nil {
			t.Error(err)
		}
		fams, _ := reg.Gather()
		for _, f := range fams {
			switch f.GetName() {
			case "eventbus_time_since_publish_seconds":
				if h := f.GetMetric()[len(f.GetMetric())-1].GetHistogram(); h.GetSampleCount() != 1 || h.GetSampleSum() != 3.02 {
					t.Errorf("time since publish %v", h)
				}
			case "eventbus_duplicates_total", "eventbus_ignored_total":
				if v := f.GetMetric()[0].GetCounter().GetValue(); v != 1 {
					t.Errorf("%s %v", f.GetName(), v)
				}
			}
		}
	})
}

func TestMetricsPublishCountsMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := NewMetrics(nil)
		if err != nil {
			t.Fatal(err)
		}
		var q poisonQueue
		s := &script{answers: [][]driver.Result{
			{result(driver.Confirmed, nil), result(driver.Unknown, errBoom), result(driver.Rejected, driver.ErrPermanent)},
			{result(driver.Unknown, errBoom)},
		}}
		f := ChainPublish(s.publish, MetricsPublish(m, "kafka"), RetryPublish(RetryPolicy{MaxAttempts: 2}), PoisonPublish(q.sink))
		known := func(id string) *message.Message {
			msg := keyed(id, "")
			msg.Metadata["ce_type"] = "bench.event"
			return msg
		}
		foreign := keyed("f", "")
		foreign.Metadata["event_type"] = "made-up-" + strings.Repeat("x", 100)
		_ = f(t.Context(), "topic", known("a"), known("b"), known("c"))
		if err := f(t.Context(), "topic", foreign, foreign, known("d")); err != nil {
			t.Fatal(err)
		}
		if err := f(t.Context(), "topic"); err != nil {
			t.Fatal(err)
		}
		for labels, want := range map[[2]string]float64{
			{"bench.event", "confirmed"}: 2, {"bench.event", "unknown"}: 1, {"bench.event", "rejected"}: 1, {"", "confirmed"}: 2,
		} {
			if got := testutil.ToFloat64(m.sent.WithLabelValues("kafka", "topic", labels[0], labels[1])); got != want {
				t.Errorf("sent %v: %v, want %v", labels, got, want)
			}
		}
		for name, got := range map[string]float64{
			"retries":  testutil.ToFloat64(m.retries.WithLabelValues("kafka", "topic")),
			"unknown":  testutil.ToFloat64(m.unknown.WithLabelValues("kafka", "topic")),
			"poisoned": testutil.ToFloat64(m.poisoned.WithLabelValues("kafka", "topic", "", "rejected")),
		} {
			if got != 1 {
				t.Errorf("%s: %v", name, got)
			}
		}
	})
}

func TestMetricsAreSharedAndDescribed(t *testing.T) {
	reg := prometheus.NewRegistry()
	a, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*Metrics{a, b} {
		if err := MetricsPublish(m, "kafka")(confirm)(t.Context(), "topic", keyed("a", "")); err != nil {
			t.Fatal(err)
		}
		_, _ = deliver(Measure(m, "")(handler(func(context.Context) error { return nil })), event(t.Context(), "1", "{}"))
	}
	if n := testutil.ToFloat64(a.sent.WithLabelValues("kafka", "topic", "", "confirmed")); n != 2 {
		t.Errorf("counted %v by two buses", n)
	}
	fams, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	docs := a.Describe()
	for _, f := range fams {
		i := slices.IndexFunc(docs, func(d MetricDoc) bool { return d.Name == f.GetName() })
		if i < 0 || docs[i].Help != f.GetHelp() || docs[i].Type != strings.ToLower(f.GetType().String()) {
			t.Errorf("%s is not as described", f.GetName())
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		if want := slices.Sorted(slices.Values(docs[i].Labels)); !slices.Equal(labels, want) {
			t.Errorf("%s has labels %v, described %v", f.GetName(), labels, want)
		}
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	taken := prometheus.NewRegistry()
	taken.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventbus_ignored_total", Help: "h"}))
	if _, err := NewMetrics(taken); err == nil {
		t.Error("took a name that is another metric's")
	}
}

func TestSeriesAreBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	f := MetricsPublish(m, "kafka")(confirm)
	msg := keyed("a", "")
	for i := range maxSeries + 100 {
		if err := f(t.Context(), fmt.Sprint("topic-", i), msg); err != nil {
			t.Fatal(err)
		}
	}
	if n := testutil.ToFloat64(m.sent.WithLabelValues("kafka", otherTopic, "", "confirmed")); n != 100 {
		t.Errorf("counted %v under %s", n, otherTopic)
	}
	if m.topicLabel("kafka", "topic-1") != "topic-1" || m.topicLabel("kafka", "new") != otherTopic {
		t.Error("topicLabel")
	}
}
