package redisbus

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
)

// Findings of an audit.
const (
	findNoAOF = "the append-only file is off: a kill -9 or restart of Redis may lose every event since the last snapshot; " +
		"set appendonly yes and appendfsync always"
	findNotAlways = "appendfsync is %s: a kill -9 of the machine may lose acknowledged events; set appendfsync always"
	findEvicts    = "maxmemory-policy is %s: under memory pressure Redis may delete whole streams; set noeviction"
	findNoConfig  = "this user may not read CONFIG: whether acknowledged events survive a kill -9 of Redis is not known"
	findReplicas  = "replication is asynchronous: a failover may lose the last acknowledged events; " +
		"min-replicas-to-write and min-replicas-max-lag make the loss smaller"
	findMemory = "memory is %d %% of maxmemory: at 100 %% publishing is refused (OOM)"
	// findNotTrimmed always holds for the stock build.
	findNotTrimmed = "streams are never trimmed by this build: memory grows with every event published; " +
		"trim by hand what every group has read (XTRIM MINID)"
)

// nearlyFull is the share of maxmemory, in percent, from which there is a finding.
const nearlyFull = 80

// Audit implements driver.Auditor. Of a Cluster all masters are looked at; the
// worst counts.
func (b *Backend) Audit(ctx context.Context) (driver.Audit, error) {
	a, err := b.auditAll(ctx)
	if err == nil {
		a.Findings = append(a.Findings, findNotTrimmed)
	}
	return a, err
}

func (s *server) auditAll(ctx context.Context) (driver.Audit, error) {
	a, err := bounded(ctx, func() (driver.Audit, error) {
		a := driver.Audit{Durable: true}
		err := s.eachMaster(ctx, func(ctx context.Context, c redis.Cmdable) error { return s.audit(ctx, c, &a) })
		return a, err
	})
	if err != nil {
		return driver.Audit{}, s.fail("audit", err)
	}
	return a, nil
}

func (s *server) audit(ctx context.Context, c redis.Cmdable, a *driver.Audit) error {
	find := func(f string) {
		if !slices.Contains(a.Findings, f) {
			a.Findings = append(a.Findings, f)
		}
	}
	settings := map[string]string{}
	for _, pattern := range []string{"append*", "maxmemory*"} {
		m, err := c.ConfigGet(ctx, pattern).Result()
		if err != nil && !isReply(err) {
			return err
		}
		for k, v := range m {
			settings[k] = v
		}
	}
	text, err := c.Info(ctx).Result()
	if err != nil && !isReply(err) {
		return err
	}
	info := parseInfo(text)
	if v := info["redis_version"]; v != "" {
		a.Version = v
	}

	aof, known := settings["appendonly"]
	switch {
	case !known:
		a.Durable = false
		find(findNoConfig)
		// INFO shows at least whether there is a file at all.
		if info["aof_enabled"] == "0" {
			find(findNoAOF)
		}
	case aof != "yes":
		a.Durable = false
		find(findNoAOF)
	case settings["appendfsync"] != "always":
		a.Durable = false
		find(fmt.Sprintf(findNotAlways, settings["appendfsync"]))
	}
	policy := settings["maxmemory-policy"]
	if policy == "" {
		policy = info["maxmemory_policy"]
	}
	if policy != "" && policy != "noeviction" {
		find(fmt.Sprintf(findEvicts, policy))
	}
	used, _ := strconv.ParseInt(info["used_memory"], 10, 64)
	limit, _ := strconv.ParseInt(info["maxmemory"], 10, 64)
	if limit > 0 && used*100/limit >= nearlyFull {
		find(fmt.Sprintf(findMemory, used*100/limit))
	}
	replicas, _ := strconv.Atoi(info["connected_slaves"])
	if replicas > 0 || s.opts.Kind() != "single" {
		find(findReplicas)
	}
	return nil
}

// parseInfo reads the "name:value" lines of INFO.
func parseInfo(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			m[k] = v
		}
	}
	return m
}
