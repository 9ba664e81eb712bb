package middleware

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// clip cuts s to at most n bytes of valid UTF-8, and shows that it did.
func clip(s string, n int) string {
	if len(s) > n {
		const more = "..."
		s = s[:n-len(more)]
		for range utf8.UTFMax - 1 { // the last character may be cut in two
			if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size != 1 {
				break
			}
			s = s[:len(s)-1]
		}
		s += more
	}
	return strings.ToValidUTF8(s, "?")
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// sometimes lets one caller through per period: a store that is down would
// otherwise log once per message.
type sometimes struct{ next atomic.Int64 }

func (s *sometimes) now(period time.Duration) bool {
	now := time.Now().UnixNano()
	next := s.next.Load()
	return now >= next && s.next.CompareAndSwap(next, now+int64(period))
}
