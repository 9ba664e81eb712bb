package bus

import (
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler serves what operators and orchestrators ask of a process:
//
//	/healthz            200 while the process serves, 503 once the bus is closed
//	/readyz             200 when the broker answers, else 503; the body says why
//	/status, /health    Health as JSON, always 200 so that it can be read
//	/metrics            the registry's metrics, Prometheus text
//
// No answer holds a secret or an event's data.
func (b *Bus) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if b.inUse.closed() {
			http.Error(w, ErrClosed.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if h := b.Health(r.Context()); h.Status == StatusDown {
			http.Error(w, h.Error, http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	status := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(b.Health(r.Context())) // the client went away: nothing to tell it
	}
	mux.HandleFunc("GET /status", status)
	mux.HandleFunc("GET /health", status)
	mux.Handle("GET /metrics", promhttp.HandlerFor(b.cfg.Registry, promhttp.HandlerOpts{Registry: b.cfg.Registry}))
	return mux
}
