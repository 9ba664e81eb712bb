package redisclient

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"
)

// go-redis has one logger for the whole process and writes to standard error,
// by itself, every second while a server is away. What it says comes back as
// errors too, so it is turned down to slog's debug level. An application that
// wants it otherwise calls redis.SetLogger in its main.
func init() { redis.SetLogger(clientLog{}) }

type clientLog struct{}

// Printf implements go-redis's internal.Logging.
func (clientLog) Printf(ctx context.Context, format string, v ...any) {
	if l := slog.Default(); l.Enabled(ctx, slog.LevelDebug) {
		l.DebugContext(ctx, "redis client", "detail", fmt.Sprintf(format, v...))
	}
}
