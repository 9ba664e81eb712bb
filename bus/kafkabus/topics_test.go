//go:build unix

package kafkabus_test

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/brokertest"
)

// topicSettings returns the number of partitions and the settings of a topic.
func topicSettings(t *testing.T, addr, topic string) (partitions, replicas int, settings map[string]string) {
	t.Helper()
	adm := kadm.NewClient(plain(t, addr))
	list, err := adm.ListTopics(testContext(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	configs, err := adm.DescribeTopicConfigs(testContext(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	settings = map[string]string{}
	for _, c := range configs[0].Configs {
		settings[c.Key] = c.MaybeValue()
	}
	return len(list[topic].Partitions), list[topic].Partitions.NumReplicas(), settings
}

func TestTopicsAreCreatedAsConfigured(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		b := open(t, config(k.Addr))
		byDefault, asked := brokertest.Name(t, "default"), brokertest.Name(t, "asked")
		var wg sync.WaitGroup
		for range 8 { // at once, from many
			wg.Go(func() { publish(t, b, byDefault, msg("k", "x")) })
		}
		wg.Wait()
		n, _, s := topicSettings(t, k.Addr, byDefault)
		if n != 3 || s["retention.ms"] != "604800000" {
			t.Errorf("by default: %d partitions, retention %s", n, s["retention.ms"])
		}
		spec := driver.TopicSpec{Name: asked, Partitions: 1, Retention: 30 * 24 * time.Hour, MaxMessageBytes: 34 << 20}
		for range 2 {
			if err := b.EnsureTopic(testContext(t), spec); err != nil {
				t.Fatal(err)
			}
		}
		n, _, s = topicSettings(t, k.Addr, asked)
		if n != 1 || s["retention.ms"] != "2592000000" || s["max.message.bytes"] != "35651584" {
			t.Errorf("as asked: %d partitions, %v", n, s)
		}
		// One that exists stays as it is.
		spec.Partitions = 5
		if err := open(t, config(k.Addr)).EnsureTopic(testContext(t), spec); err != nil {
			t.Fatal(err)
		}
		if n, _, _ := topicSettings(t, k.Addr, asked); n != 1 {
			t.Errorf("now %d partitions", n)
		}
		for _, bad := range []driver.TopicSpec{{Name: ""}, {Name: "."}, {Name: "a b"}, {Name: "x", Partitions: 1001}} {
			if err := b.EnsureTopic(testContext(t), bad); err == nil {
				t.Errorf("%+v was accepted", bad)
			}
		}
	})
}

func TestReplicationFallsBackToWhatThereIs(t *testing.T) {
	k := brokertest.FakeKafka(t)
	var tried []int16
	k.Fake.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.Fake.KeepControl()
		r := req.(*kmsg.CreateTopicsRequest)
		tried = append(tried, r.Topics[0].ReplicationFactor)
		if r.Topics[0].ReplicationFactor == 1 {
			return nil, nil, false
		}
		resp := r.ResponseKind().(*kmsg.CreateTopicsResponse)
		rt := kmsg.NewCreateTopicsResponseTopic()
		rt.Topic, rt.ErrorCode = r.Topics[0].Topic, kerr.InvalidReplicationFactor.Code
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	publish(t, open(t, config(k.Addr)), "topic", msg("k", "x"))
	if !slices.Equal(tried, []int16{-1, 3, 2, 1}) {
		t.Errorf("tried %v", tried)
	}
	cfg := config(k.Addr)
	cfg.ReplicationFactor = 3
	err := open(t, cfg).EnsureTopic(testContext(t), driver.TopicSpec{Name: "other"})
	if err == nil || !strings.Contains(err.Error(), "Replication-factor is invalid") {
		t.Errorf("three replicas on one broker: %v", err)
	}
}

func TestADeletedTopicIsCreatedAgain(t *testing.T) {
	k := brokertest.FakeKafka(t)
	b := open(t, config(k.Addr))
	publish(t, b, "topic", msg("k", "x"))
	if _, err := kadm.NewClient(plain(t, k.Addr)).DeleteTopics(testContext(t), "topic"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "published again", func() bool { return b.Publish(testContext(t), "topic", msg("k", "y")) == nil })
}

func TestAuditOfOneBrokerAndOfThree(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		b := open(t, config(k.Addr))
		topic := brokertest.Name(t, "audited")
		publish(t, b, topic, msg("k", "x"))
		a, err := b.Audit(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(a.Findings, "\n")
		if !a.Durable || !strings.Contains(all, "replication 1: one broker's disk is the only copy of "+topic) {
			t.Errorf("%+v", a)
		}
		if k.Real && (a.Version != "4.1" || !strings.Contains(all, "the cluster is one broker")) {
			t.Errorf("%+v", a)
		}
	})
	t.Run("three", func(t *testing.T) {
		c := brokertest.StartKafka(t, brokertest.KafkaOptions{Nodes: 3})
		b := open(t, config(c.Addr))
		publish(t, b, "topic", msg("k", "x"))
		if _, replicas, _ := topicSettings(t, c.Addr, "topic"); replicas != 3 {
			t.Errorf("%d replicas", replicas)
		}
		a, err := b.Audit(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(a.Findings, "\n"); strings.Contains(all, "only copy") || strings.Contains(all, "one broker's disk") {
			t.Errorf("%+v", a)
		}
		// The leader dies: publishing goes on, and the audit says what is short.
		topics, err := kadm.NewClient(plain(t, c.Addr)).ListTopics(testContext(t), "topic")
		if err != nil {
			t.Fatal(err)
		}
		c.Nodes[topics["topic"].Partitions[0].Leader-1].Kill()
		for i := range 6 {
			eventually(t, "published after the leader's death", func() bool {
				return b.Publish(testContext(t), "topic", msg(string(rune('a'+i)), "y")) == nil
			})
		}
		eventually(t, "the audit tells", func() bool {
			a, err := b.Audit(testContext(t))
			return err == nil && strings.Contains(strings.Join(a.Findings, "\n"), "under-replicated now: topic")
		})
	})
}

func TestLagCountsWhatIsNotSettled(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		b := open(t, config(k.Addr))
		topic, group := brokertest.Name(t, "lag"), brokertest.Name(t, "g")
		if lag, known, err := b.Lag(testContext(t), topic, group); lag != 0 || known || err != nil {
			t.Errorf("no topic: %d, %v, %v", lag, known, err)
		}
		if _, _, err := b.Lag(testContext(t), "a b", group); err == nil {
			t.Error("an impossible topic")
		}
		publish(t, b, topic, msg("k", "1"))
		if lag, known, err := b.Lag(testContext(t), topic, group); lag != 0 || known || err != nil {
			t.Errorf("never read: %d, %v, %v", lag, known, err)
		}
		s := subscriber(t, b, group)
		take(t, subscribe(t, s, topic), 1)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		publish(t, b, topic, numbered("more", 20)...)
		if lag, known, err := b.Lag(testContext(t), topic, group); lag != 20 || !known || err != nil {
			t.Errorf("20 published since: %d, %v, %v", lag, known, err)
		}
	})
}

// A broker that comes back without its data has lost the topics too.
func TestTopicThatVanishedIsMadeAgainAsItWas(t *testing.T) {
	port := brokertest.Port(t)
	start := func() *kfake.Cluster {
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := start()
	defer func() { c.Close() }()
	addr := "127.0.0.1:" + strconv.Itoa(port)
	b, topic := open(t, config(addr)), brokertest.Name(t, "topic")
	spec := driver.TopicSpec{Name: topic, Partitions: 1, Retention: 30 * 24 * time.Hour}
	if err := b.EnsureTopic(testContext(t), spec); err != nil {
		t.Fatal(err)
	}
	ch := subscribe(t, subscriber(t, b, brokertest.Name(t, "group")), topic)
	publish(t, b, topic, msg("k", "before"))
	take(t, ch, 1)
	c.Close()
	c = start()
	// Nobody publishes through us: the subscription alone has to notice.
	eventually(t, "the topic", func() bool {
		n, _, s := topicSettings(t, addr, topic)
		return n == 1 && s["retention.ms"] == "2592000000"
	})
	other := open(t, config(addr))
	publish(t, other, topic, msg("k", "after"))
	if got := take(t, ch, 1); got[0] != "after" {
		t.Errorf("got %q", got)
	}
}
