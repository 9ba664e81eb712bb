package redisbus

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/redisclient"
)

// Config says where the Redis is and how to use it. The zero value of each field
// but URL is a safe default.
type Config struct {
	// URL of one server, a Cluster or Sentinels; see ParseURL. Required.
	URL string

	// Username and Password go before the URL's, as do those for Sentinels.
	Username, Password                 string
	SentinelUsername, SentinelPassword string

	// With a rediss URL: PEM files of the authority that signed the server's
	// certificate (default: the system's), and of a client certificate; the name
	// that the server's certificate must have (default: the host's).
	CAFile, CertFile, KeyFile, ServerName string

	// ClientName is shown by CLIENT LIST. Defaults to none.
	ClientName string

	// DialTimeout bounds connecting, Timeout each read and each write: what a
	// call takes longest whose context has no end. Both default to 5 s.
	DialTimeout, Timeout time.Duration

	// MaxMessageBytes is the largest message published, payload and metadata
	// together, up to 512 MiB (Redis's own proto-max-bulk-len). Larger ones are
	// rejected for good. Defaults to 32 MiB, and 64 KiB for the metadata.
	MaxMessageBytes int

	// BlockTime is how long one read waits for an event, and so the longest that
	// stopping waits for the reader: 1 ms to 10 s. Defaults to 100 ms.
	BlockTime time.Duration

	// ClaimAfter is how long an event may lie with a member of the group that
	// shows no sign of life before another takes it over, 1 s to 24 h. A member
	// of this package shows signs of life while a handler runs, however long.
	// Give members that are plain Watermill services (60 s by default) the same.
	// Defaults to 1 minute.
	ClaimAfter time.Duration

	// Provision says whether a stream that is missing is created when it is
	// first published to or subscribed to. Partitions are the native build's:
	// the stock one has one stream per topic. Redis knows no retention: the stock
	// build keeps everything, the native one what some group has not consumed.
	Provision driver.Provision

	// Namespace is the prefix of the keys in which the native build keeps what it
	// has to remember: how many partitions a topic has, and who reads which.
	// Defaults to "eventbus".
	Namespace string

	// Log defaults to discarding.
	Log *slog.Logger
}

const (
	defaultMaxMessageBytes = 32<<20 + 64<<10
	maxMaxMessageBytes     = 512 << 20

	defaultPartitions = 3
	maxPartitions     = 1000
)

// setDefaults fills in and checks. It reports everything that is wrong.
func (c *Config) setDefaults() error {
	var errs []error
	if c.URL == "" {
		errs = append(errs, fmt.Errorf("no URL: want %s", redisclient.Forms))
	}
	if c.MaxMessageBytes == 0 {
		c.MaxMessageBytes = defaultMaxMessageBytes
	}
	if c.MaxMessageBytes < 0 || c.MaxMessageBytes > maxMaxMessageBytes {
		errs = append(errs, fmt.Errorf("MaxMessageBytes %d: want 1 to %d", c.MaxMessageBytes, maxMaxMessageBytes))
	}
	errs = append(errs,
		within("BlockTime", &c.BlockTime, 100*time.Millisecond, time.Millisecond, 10*time.Second),
		within("ClaimAfter", &c.ClaimAfter, time.Minute, time.Second, 24*time.Hour),
		within("DialTimeout", &c.DialTimeout, 5*time.Second, time.Millisecond, time.Hour),
		within("Timeout", &c.Timeout, 5*time.Second, time.Millisecond, time.Hour))
	if c.Namespace == "" {
		c.Namespace = "eventbus"
	}
	if strings.ContainsAny(c.Namespace, "{}") { // they choose a Cluster's slot
		errs = append(errs, fmt.Errorf("a Namespace with braces, %q: want one without", c.Namespace))
	}
	if p := c.Provision.Partitions; p < 0 || p > maxPartitions {
		errs = append(errs, fmt.Errorf("Provision.Partitions %d: want 1 to %d", p, maxPartitions))
	}
	if c.Provision.Partitions == 0 {
		c.Provision.Partitions = defaultPartitions
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return errors.Join(errs...)
}

func within(name string, d *time.Duration, unset, lowest, highest time.Duration) error {
	if *d == 0 {
		*d = unset
	}
	if *d < lowest || *d > highest {
		return fmt.Errorf("%s %v: want %v to %v", name, *d, lowest, highest)
	}
	return nil
}

// ParseURL checks a Redis URL without connecting. Its error never contains the
// password.
//
//	redis://user:password@host:6379/0                  one server, database 0
//	rediss://...                                       the same over TLS
//	unix://user:password@/path/to/socket?db=0
//	redis+cluster://user:password@host:6379,host2:6379 (or rediss+cluster)
//	redis+sentinel://user:password@host:26379,host2:26379/master-name/0
//
// go-redis's own forms for Cluster (?addr=host2:6379) and Sentinel
// (?master_name=name) are understood too, and its parameters (dial_timeout,
// pool_size and so on), but not skip_verify.
func ParseURL(raw string) (*redisclient.Options, error) {
	return redisclient.Parse(raw)
}
