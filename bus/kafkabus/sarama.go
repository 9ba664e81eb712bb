package kafkabus

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/rcrowley/go-metrics"
)

// protocolVersion is what sarama takes the brokers for. It asks every broker
// what it understands and speaks an older dialect to an older broker (down to
// Kafka 2.8, tested by sarama), so this is an upper bound. From 3.2 on a
// cooperative member tells its generation in the protocol itself.
var protocolVersion = sarama.V3_6_0_0

var codecs = map[string]sarama.CompressionCodec{
	"none":   sarama.CompressionNone,
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

var strategies = map[string]func() sarama.BalanceStrategy{
	"cooperative-sticky": sarama.NewBalanceStrategyCooperativeSticky,
	"range":              sarama.NewBalanceStrategyRange,
	"roundrobin":         sarama.NewBalanceStrategyRoundRobin,
	"sticky":             sarama.NewBalanceStrategySticky,
}

// names returns the keys of a table, sorted.
func names[V any](table map[string]V) []string {
	list := make([]string, 0, len(table))
	for name := range table {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// base is what all of this backend's clients have in common.
func (b *Backend) base(w *wire) *sarama.Config {
	c := sarama.NewConfig()
	c.Version = protocolVersion
	c.ClientID = b.cfg.ClientID
	c.MetricRegistry = noMetrics{}
	c.Net.MaxOpenRequests = 1
	c.Net.DialTimeout = b.cfg.SocketConnectionSetupTimeout
	c.Net.ReadTimeout = b.cfg.SocketTimeout
	c.Net.WriteTimeout = b.cfg.SocketTimeout
	c.Net.Proxy.Enable = true
	c.Net.Proxy.Dialer = w
	b.security(c)
	// A client asks only about topics it uses: a big cluster has thousands, and
	// a key may be forbidden to see the others. Topics are created in topics.go.
	c.Metadata.Full = false
	c.Metadata.AllowAutoTopicCreation = false
	c.Metadata.RefreshFrequency = 5 * time.Minute // librdkafka's; finds added partitions
	c.Metadata.Timeout = b.cfg.DeliveryTimeout
	c.Metadata.Retry.Max = 3
	c.Metadata.Retry.BackoffFunc = w.backoff
	return c
}

// backoff is 100 ms, doubled each time up to 1 s, and nothing once w is cut.
// sarama counts metadata retries downwards; both directions are bounded alike.
func (w *wire) backoff(retries, _ int) time.Duration {
	if w.aborted() {
		return 0
	}
	return min(100*time.Millisecond<<max(0, min(retries-1, 4)), time.Second)
}

// producerConfig is for a producer of messages up to maxBytes.
func (b *Backend) producerConfig(w *wire, maxBytes int) *sarama.Config {
	c := b.base(w)
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	c.Producer.Return.Successes = true
	c.Producer.Return.Errors = true
	c.Producer.Compression = codecs[b.cfg.CompressionType]
	c.Producer.Partitioner = partitioners[b.cfg.Partitioner]
	c.Producer.MaxMessageBytes = maxBytes
	// The broker answers a request it cannot replicate in time before sarama
	// gives up waiting for the answer.
	c.Producer.Timeout = (b.cfg.SocketTimeout * 2 / 3).Truncate(time.Millisecond)
	// About 8 s of pauses: longer than the election of a new leader takes.
	c.Producer.Retry.Max = 10
	c.Producer.Retry.Backoff = 100 * time.Millisecond
	c.Producer.Retry.BackoffFunc = w.backoff
	// Asking for the producer id when it is made: connect tries again.
	c.Producer.Transaction.Retry.Max = 2
	c.Producer.Transaction.Retry.BackoffFunc = w.backoff
	return c
}

// consumerConfig is for one subscription.
func (b *Backend) consumerConfig(w *wire, instance string) *sarama.Config {
	c := b.base(w)
	if instance != "" {
		c.ClientID += "-" + instance
	}
	c.Consumer.Return.Errors = true
	// A new group reads what is there already: starting at the newest would
	// lose what was published between a switch and the first subscription.
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	// Only acked messages are marked, and marks are committed together: with
	// AutoCommit off the stock subscriber commits after every message, behind
	// the long poll, at 9-47 messages/s.
	c.Consumer.Offsets.AutoCommit.Enable = true
	c.Consumer.Offsets.AutoCommit.Interval = b.cfg.AutoCommitInterval
	c.Consumer.MaxWaitTime = 100 * time.Millisecond
	c.Consumer.Retry.Backoff = 500 * time.Millisecond
	// As Python's consumers: a message of an aborted transaction was never said.
	c.Consumer.IsolationLevel = sarama.ReadCommitted
	// A handler slower than this suspends fetching for its partition alone, so
	// that it does not hold up the others of the same broker. Nothing is lost.
	c.Consumer.MaxProcessingTime = 100 * time.Millisecond
	// The stock subscriber delivers all that is buffered for a partition after
	// it was revoked in a cooperative rebalance, which waits for that.
	c.ChannelBufferSize = 1
	g := &c.Consumer.Group
	g.Session.Timeout = b.cfg.SessionTimeout
	g.Heartbeat.Interval = b.cfg.HeartbeatInterval
	g.Rebalance.Timeout = b.cfg.MaxPollInterval
	g.Rebalance.Retry.Max = 4
	g.Rebalance.Retry.Backoff = 500 * time.Millisecond
	g.Rebalance.GroupStrategies = nil
	for _, name := range splitList(b.cfg.GroupStrategy) {
		g.Rebalance.GroupStrategies = append(g.Rebalance.GroupStrategies, strategies[name]())
	}
	return c
}

// adminConfig is for short questions; a failure is tried again by the caller.
func (b *Backend) adminConfig(w *wire) *sarama.Config {
	c := b.base(w)
	c.Metadata.Full = true // without it sarama does not learn who the controller is
	c.Metadata.RefreshFrequency = 0
	c.Metadata.Retry.Max = 1
	c.Admin.Timeout = min(b.cfg.SocketTimeout*2/3, 10*time.Second)
	c.Admin.Retry.Max = 2
	return c
}

// noMetrics is a registry that keeps nothing. sarama updates a dozen histograms
// and meters per request, and the first meter starts a goroutine for ever.
type noMetrics struct{}

var _ metrics.Registry = noMetrics{}

func (noMetrics) GetOrRegister(_ string, m any) any {
	switch m.(type) {
	case func() metrics.Meter:
		return metrics.NilMeter{}
	case func() metrics.Histogram:
		return metrics.NilHistogram{}
	default:
		return metrics.NilCounter{}
	}
}

func (noMetrics) Each(func(string, any))            {}
func (noMetrics) Get(string) any                    { return nil }
func (noMetrics) GetAll() map[string]map[string]any { return nil }
func (noMetrics) Register(string, any) error        { return nil }
func (noMetrics) RunHealthchecks()                  {}
func (noMetrics) Unregister(string)                 {}
func (noMetrics) UnregisterAll()                    {}

// noTopicMetrics keeps sarama from measuring a topic in the metrics library's
// global registry. It does so by mistake, when it works out the size of a fetch
// request, and the first such meter starts a goroutine that never ends.
func noTopicMetrics(topic string) {
	metrics.DefaultRegistry.GetOrRegister("consumer-fetch-rate-for-topic-"+strings.ReplaceAll(topic, ".", "_"), metrics.NilMeter{})
}

// sleep waits for d and tells whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
