package redisclient_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aura360/eventbus/internal/redisclient"
)

func TestParseReadsEveryForm(t *testing.T) {
	for raw, want := range map[string]string{
		"redis://host":                               "single host:6379",
		"redis://user:pass@host:1/2":                 "single host:1",
		"rediss://[::1]:1":                           "single [::1]:1",
		"unix:///run/redis.sock?db=1":                "single /run/redis.sock",
		"redis+cluster://user:pass@a:1,b":            "cluster a:1,b:6379",
		"redis+cluster://a":                          "cluster a:6379",
		"redis://a:1,b:2":                            "cluster a:1,b:2",
		"rediss://a:1?addr=b:2&addr=c:3":             "cluster a:1,b:2,c:3",
		"redis+sentinel://:pass@a,b:2/main/1":        "sentinel a:26379,b:2/main",
		"rediss+sentinel://u:p@a/main?pool_size=3":   "sentinel a:26379/main",
		"redis://:pass@a:1/0?master_name=m&addr=b:2": "sentinel a:1,b:2/m",
	} {
		o, err := redisclient.Parse(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if o.String() != want {
			t.Errorf("%s: %s, want %s", raw, o, want)
		}
		if err := o.Apply(redisclient.Settings{}); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
		if err := o.New().Close(); err != nil {
			t.Errorf("%s: close: %v", raw, err)
		}
	}
}

func TestErrorsTellWhatIsWrongAndNoPassword(t *testing.T) {
	for raw, want := range map[string]string{
		"":                                       "not a Redis URL",
		"host:6379":                              "not a Redis URL",
		"http://host":                            "not a Redis URL",
		"unix+cluster://host":                    "not a Redis URL",
		"redis+other://host":                     "not a Redis URL",
		"redis://:s3cret@host/db":                "invalid database number",
		"redis://:s3cret@host?nonsense=1":        "unexpected option: nonsense",
		"redis://:s3cret@host?read_timeout=x":    "read_timeout",
		"redis://:s3cret@host:port":              "not a Redis URL",
		"redis://:s3c@ret/x@host/db":             "percent-encoded",
		"redis://:s3cret/@host":                  "not a Redis URL",
		"redis://:s3c?ret@host":                  "not a Redis URL",
		"redis://:%zzs3cret@host":                "not a Redis URL",
		"rediss://:s3cret@host?skip_verify=true": "skip_verify",
		"redis+cluster://:s3cret@host/3":         "database 0",
		"redis+sentinel://:s3cret@host":          "no name of the master",
		"redis+sentinel://:s3cret@host/m/x":      "invalid database number",

		// An error that contains one.
		"redis+sentinel://:s3cret@host/m/x?sentinel_password=x": "not a Redis URL",
	} {
		_, err := redisclient.Parse(raw)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "want redis://") {
			t.Errorf("%s: %v, want %q and what is allowed", raw, err, want)
			continue
		}
		if strings.Contains(err.Error(), "s3c") || strings.Contains(err.Error(), "ret@") {
			t.Errorf("%s: the error shows the password: %v", raw, err)
		}
	}
}

func TestOptionsPrintWithoutPassword(t *testing.T) {
	o, err := redisclient.Parse("redis+sentinel://user:s3cret@host/main?sentinel_password=s3cret")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(f, o); strings.Contains(s, "s3cret") {
			t.Errorf("%s: %s", f, s)
		}
	}
}
