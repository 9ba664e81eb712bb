//go:build unix

package local

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Listener is one of the ports a broker offers to clients.
type Listener string

// The listeners of a broker. All but Plaintext need certificates or users, see
// [Kafka.Secure]. Both SASL listeners accept PLAIN, SCRAM-SHA-256,
// SCRAM-SHA-512 and OAUTHBEARER.
const (
	Plaintext     Listener = "PLAINTEXT"
	SSL           Listener = "SSL"  // server certificate only
	MTLS          Listener = "MTLS" // client certificate required
	SASLPlaintext Listener = "SASL_PLAINTEXT"
	SASLSSL       Listener = "SASL_SSL"
)

// Listeners are all of them.
var Listeners = []Listener{Plaintext, SSL, MTLS, SASLPlaintext, SASLSSL}

// User and Password are accepted by the SASL listeners, with PLAIN and both
// SCRAM mechanisms.
const (
	User     = "eventbus"
	Password = "eventbus-secret"
)

//go:embed pom.xml
var pom string

// KafkaVersion is the version of the broker that scripts/brokers installs.
var KafkaVersion = regexp.MustCompile(`<kafka.version>(.*)</kafka.version>`).FindStringSubmatch(pom)[1]

// CacheDir is where downloaded programs are kept between runs:
// $EVENTBUS_CACHE, or eventbus in the user's cache folder.
func CacheDir() string {
	if dir := os.Getenv("EVENTBUS_CACHE"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "eventbus")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = os.TempDir()
	}
	return filepath.Join(home, ".cache", "eventbus")
}

// KafkaLibs is the folder with the broker's jars, provided that Java is there to
// run them; the error wraps [ErrNotInstalled].
func KafkaLibs() (string, error) {
	if _, err := exec.LookPath("java"); err != nil {
		return "", fmt.Errorf("java is %w: run scripts/brokers up, or install a JDK 17 or newer", ErrNotInstalled)
	}
	libs := filepath.Join(CacheDir(), "kafka-"+KafkaVersion, "libs")
	if _, err := os.Stat(filepath.Join(libs, "kafka_2.13-"+KafkaVersion+".jar")); err != nil {
		return "", fmt.Errorf("kafka %s is %w (no jars in %s): run scripts/brokers up", KafkaVersion, ErrNotInstalled, libs)
	}
	return libs, nil
}

// Kafka is the configuration of one Kafka node, broker and controller in one
// process (KRaft, no ZooKeeper).
type Kafka struct {
	Name      string // defaults to "kafka"
	ID        int    // node id. Defaults to 1
	ClusterID string // the same on all nodes; see [NewClusterID]
	Dir       string // data, configuration and log; created

	Ports     map[Listener]int // where the node listens; Plaintext is required
	Advertise map[Listener]int // ports told to clients where they differ (a proxy's)

	// Controllers are the controller ports of all nodes, by node id.
	Controllers map[int]int

	// Secure holds the certificates and the key set for the listeners other
	// than Plaintext. Nil if there are none.
	Secure *Certs

	// Properties are added to the configuration, or replace what it says.
	Properties map[string]string

	// HeapMB is the size of the Java heap. Defaults to 512.
	HeapMB int

	// ShortLived tunes the Java virtual machine for a quick start rather than
	// for speed.
	ShortLived bool
}

// NewClusterID returns a fresh cluster id.
func NewClusterID() string {
	var id [16]byte
	for {
		_, _ = rand.Read(id[:])
		// Kafka refuses an id that looks like a command line option.
		if s := base64.RawURLEncoding.EncodeToString(id[:]); s[0] != '-' {
			return s
		}
	}
}

// Server writes the configuration, formats the data folder if it is new, and
// returns how to start the node.
func (k Kafka) Server(ctx context.Context) (Server, error) {
	libs, err := KafkaLibs()
	if err != nil {
		return Server{}, err
	}
	if k.Name == "" {
		k.Name = "kafka"
	}
	if k.ID == 0 {
		k.ID = 1
	}
	if k.HeapMB == 0 {
		k.HeapMB = 512
	}
	if err := os.MkdirAll(k.dataDir(), 0o755); err != nil {
		return Server{}, err
	}
	props := k.properties()
	var conf strings.Builder
	for _, name := range slices.Sorted(maps.Keys(props)) {
		fmt.Fprintf(&conf, "%s=%s\n", name, props[name])
	}
	if err := errors.Join(
		os.WriteFile(k.file("server.properties"), []byte(conf.String()), 0o600),
		os.WriteFile(k.file("log4j2.properties"), []byte(log4j), 0o644),
	); err != nil {
		return Server{}, err
	}
	if err := k.format(ctx, libs); err != nil {
		return Server{}, err
	}
	addr := Addr(k.Ports[Plaintext])
	return Server{
		Name:  k.Name,
		Argv:  k.java(libs, "kafka.Kafka", k.file("server.properties")),
		Dir:   k.Dir,
		Log:   k.file("kafka.log"),
		Ready: func(ctx context.Context) error { return PingKafka(ctx, addr, len(k.Controllers)) },
	}, nil
}

// PingKafka returns nil if the broker at addr answers and knows at least this
// many live brokers, itself included.
func PingKafka(ctx context.Context, addr string, brokers int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(addr, ",")...), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	res, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	if len(res.Brokers) < brokers {
		return fmt.Errorf("kafka at %s knows %d of %d brokers", addr, len(res.Brokers), brokers)
	}
	return nil
}

func (k Kafka) file(name string) string { return filepath.Join(k.Dir, name) }
func (k Kafka) dataDir() string         { return k.file("data") }

// properties is the content of server.properties.
func (k Kafka) properties() map[string]string {
	var listen, advertise, voters []string
	protocols := []string{"CONTROLLER:PLAINTEXT"}
	for _, l := range Listeners {
		port, ok := k.Ports[l]
		if !ok {
			continue
		}
		told := port
		if p, ok := k.Advertise[l]; ok {
			told = p
		}
		listen = append(listen, fmt.Sprintf("%s://%s", l, Addr(port)))
		advertise = append(advertise, fmt.Sprintf("%s://%s", l, Addr(told)))
		protocol := l
		if l == MTLS {
			protocol = SSL
		}
		protocols = append(protocols, fmt.Sprintf("%s:%s", l, protocol))
	}
	listen = append(listen, "CONTROLLER://"+Addr(k.Controllers[k.ID]))
	for _, id := range slices.Sorted(maps.Keys(k.Controllers)) {
		voters = append(voters, fmt.Sprintf("%d@%s", id, Addr(k.Controllers[id])))
	}
	replicas := fmt.Sprint(min(3, len(k.Controllers)))
	isr := fmt.Sprint(min(2, len(k.Controllers)))

	const largest = "34603008" // 33 MiB: what a poison message of 32 MiB needs
	p := map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        fmt.Sprint(k.ID),
		"controller.quorum.voters":       strings.Join(voters, ","),
		"controller.listener.names":      "CONTROLLER",
		"inter.broker.listener.name":     string(Plaintext),
		"listeners":                      strings.Join(listen, ","),
		"advertised.listeners":           strings.Join(advertise, ","),
		"listener.security.protocol.map": strings.Join(protocols, ","),
		"log.dirs":                       k.dataDir(),

		"auto.create.topics.enable":                        "false",
		"num.partitions":                                   "1",
		"default.replication.factor":                       replicas,
		"min.insync.replicas":                              isr,
		"offsets.topic.replication.factor":                 replicas,
		"offsets.topic.num.partitions":                     "5",
		"transaction.state.log.replication.factor":         replicas,
		"transaction.state.log.min.isr":                    isr,
		"transaction.state.log.num.partitions":             "5",
		"share.coordinator.state.topic.replication.factor": replicas,
		"share.coordinator.state.topic.min.isr":            isr,
		"group.initial.rebalance.delay.ms":                 "0",

		// Records stay at the default of 1 MiB; a topic may ask for more.
		"replica.fetch.max.bytes":          largest,
		"replica.fetch.response.max.bytes": largest,
		"socket.request.max.bytes":         "104857600",

		"num.network.threads":             "3",
		"num.io.threads":                  "4",
		"log.cleaner.dedupe.buffer.size":  "16777216",
		"controlled.shutdown.max.retries": "1",
	}
	if k.ShortLived {
		// The default of 9 s is a long time in a test, and a killed node that
		// comes back must wait until its former self is given up.
		p["broker.session.timeout.ms"] = "4000"
		p["broker.heartbeat.interval.ms"] = "500"
		p["replica.lag.time.max.ms"] = "3000"
		p["controller.quorum.election.timeout.ms"] = "500"
		p["controller.quorum.fetch.timeout.ms"] = "1000"
	}
	if k.Secure != nil {
		k.secure(p)
	}
	maps.Copy(p, k.Properties)
	return p
}

// secure adds what the listeners with encryption or authentication need.
func (k Kafka) secure(p map[string]string) {
	p["ssl.keystore.type"] = "PEM"
	p["ssl.keystore.location"] = k.Secure.Path(serverStore)
	p["ssl.truststore.type"] = "PEM"
	p["ssl.truststore.location"] = k.Secure.Path(CACert)
	p["listener.name.mtls.ssl.client.auth"] = "required"
	p["sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"

	const pkg = "org.apache.kafka.common.security."
	for _, l := range []Listener{SASLPlaintext, SASLSSL} {
		at := "listener.name." + strings.ToLower(string(l)) + "."
		p[at+"plain.sasl.jaas.config"] = fmt.Sprintf(`%splain.PlainLoginModule required user_%s=%q;`, pkg, User, Password)
		p[at+"scram-sha-256.sasl.jaas.config"] = pkg + "scram.ScramLoginModule required;"
		p[at+"scram-sha-512.sasl.jaas.config"] = pkg + "scram.ScramLoginModule required;"
		at += "oauthbearer."
		p[at+"sasl.jaas.config"] = pkg + "oauthbearer.OAuthBearerLoginModule required;"
		p[at+"sasl.server.callback.handler.class"] = pkg + "oauthbearer.OAuthBearerValidatorCallbackHandler"
		p[at+"sasl.oauthbearer.jwks.endpoint.url"] = k.jwksURL()
		p[at+"sasl.oauthbearer.expected.issuer"] = OAuthIssuer
		p[at+"sasl.oauthbearer.expected.audience"] = OAuthAudience
	}
}

func (k Kafka) jwksURL() string { return "file://" + k.Secure.Path(oauthJWKS) }

// format prepares a new data folder, with the SCRAM users in it.
func (k Kafka) format(ctx context.Context, libs string) error {
	if _, err := os.Stat(filepath.Join(k.dataDir(), "meta.properties")); err == nil {
		return nil
	}
	args := []string{"format", "-t", k.ClusterID, "-c", k.file("server.properties")}
	if k.Secure != nil {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, User, Password))
		}
	}
	k.ShortLived = true
	argv := k.java(libs, "kafka.tools.StorageTool", args...)
	if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("format %s: %w\n%s", k.dataDir(), err, out)
	}
	return nil
}

func (k Kafka) java(libs, class string, args ...string) []string {
	argv := []string{
		"java", fmt.Sprintf("-Xmx%dm", k.HeapMB), "-XX:+UseSerialGC", "-Xshare:auto",
		"-Dlog4j2.configurationFile=" + k.file("log4j2.properties"),
	}
	if k.ShortLived {
		argv = append(argv, "-XX:TieredStopAtLevel=1")
	}
	if k.Secure != nil {
		argv = append(argv, "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls="+k.jwksURL())
	}
	argv = append(argv, "-cp", filepath.Join(libs, "*"), class)
	return append(argv, args...)
}

const log4j = `status=error
rootLogger.level=info
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c{1})%n%throwable
`
