package kafkabus

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// options are those of every client of this backend. The connections are w's.
func (n *Native) options(w *wire, instance string) []kgo.Opt {
	c := n.cfg
	id := c.ClientID
	if instance != "" {
		id += "-" + instance
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(splitList(c.BootstrapServers)...),
		kgo.ClientID(id),
		kgo.WithLogger(clientLog{c.Log}),
		kgo.WithHooks(hooks{n}),
		// The wire dials with a timeout of its own, and ends with it.
		kgo.Dialer(func(_ context.Context, network, addr string) (net.Conn, error) { return w.Dial(network, addr) }),
		kgo.DialTimeout(c.SocketConnectionSetupTimeout),
		kgo.RequestTimeoutOverhead(c.SocketTimeout),
		kgo.ConnIdleTimeout(5 * time.Minute),
		kgo.RetryBackoffFn(func(tries int) time.Duration { return backoff(tries, time.Second) }),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.MetadataMaxAge(time.Minute), // finds added partitions
		kgo.DisableClientMetrics(),
	}
	if c.sasl() {
		opts = append(opts, kgo.SASL(n.mechanism()))
	}
	return opts
}

// backoff is 50 ms, doubled each time up to most, a fifth more or less.
func backoff(tries int, most time.Duration) time.Duration {
	d := min(50*time.Millisecond<<max(0, min(tries-1, 5)), most)
	return d*4/5 + rand.N(d*2/5)
}

// producing are the options of the client that publishes.
func (n *Native) producing() []kgo.Opt {
	c := n.cfg
	return []kgo.Opt{
		// Who asks tries again, or tells; and the client notices that a context has
		// ended only between tries.
		kgo.RequestRetries(2),
		kgo.RetryBackoffFn(func(tries int) time.Duration { return backoff(tries, cancelWait/2) }),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		// A publish ends with its context, also where its request was sent and not
		// answered. What is abandoned is not sent again: see lane.go.
		kgo.AllowIdempotentProduceCancellation(),
		kgo.ProduceRequestTimeout((c.SocketTimeout * 2 / 3).Truncate(time.Millisecond)),
		kgo.ProducerBatchCompression(kgoCodecs[c.CompressionType], kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(int32(c.MaxMessageBytes + batchOverhead)), //nolint:gosec // at most 96 MiB
		kgo.BrokerMaxWriteBytes(100 << 20),                                  // what brokers take, socket.request.max.bytes
		kgo.MaxBufferedRecords(math.MaxInt32),                               // the lanes bound them
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		// A group is buffered whole and then sent: ProduceSync ends the linger.
		kgo.ProducerLinger(maxLinger),
		kgo.UnknownTopicRetries(4),
	}
}

var kgoCodecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

// mechanism is how a connection logs in. Each login gets the credentials anew.
func (n *Native) mechanism() sasl.Mechanism {
	c := n.cfg
	switch c.SASLMechanism {
	case "SCRAM-SHA-256":
		return scram.Auth{User: c.SASLUsername, Pass: c.SASLPassword}.AsSha256Mechanism()
	case "SCRAM-SHA-512":
		return scram.Auth{User: c.SASLUsername, Pass: c.SASLPassword}.AsSha512Mechanism()
	case "OAUTHBEARER":
		return oauth.Oauth(func(context.Context) (oauth.Auth, error) {
			t, err := n.tokens.Token()
			if err != nil {
				return oauth.Auth{}, err
			}
			return oauth.Auth{Token: t.Token, Extensions: t.Extensions}, nil
		})
	default:
		return plain.Auth{User: c.SASLUsername, Pass: c.SASLPassword}.AsMechanism()
	}
}

// answered tells whether err is the word of a broker that could be reached and
// used.
func answered(err error) bool {
	var code *kerr.Error
	if errors.Is(err, kerr.SaslAuthenticationFailed) {
		return false
	}
	return errors.As(err, &code) || errors.Is(err, errAnswer)
}

// hooks watch the clients.
type hooks struct{ n *Native }

var _ interface {
	kgo.HookBrokerE2E
	kgo.HookProduceRecordUnbuffered
} = hooks{}

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (h hooks) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e kgo.BrokerE2E) {
	if key == apiProduce && e.Err() != nil {
		h.n.lost.Add(1)
	}
}

// OnProduceRecordUnbuffered implements kgo.HookProduceRecordUnbuffered: it is
// called for the records of a partition in their order.
func (h hooks) OnProduceRecordUnbuffered(r *kgo.Record, err error) {
	if g, ok := r.Context.(*group); ok {
		g.done(err)
	}
}

// clientLog is the client's log. All of it is news to a developer at most: what
// an operator must know we say ourselves, once.
type clientLog struct{ log *slog.Logger }

// Level implements kgo.Logger.
func (l clientLog) Level() kgo.LogLevel {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelNone
}

// Log implements kgo.Logger.
func (l clientLog) Log(_ kgo.LogLevel, msg string, keyvals ...any) {
	l.log.Debug("kafka client", append([]any{"what", msg}, keyvals...)...)
}
