//go:build unix

package redisclient

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// connect returns both ends of a TCP connection, the first as an exchange.
func connect(t *testing.T) (*exchange, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	e, ok := Exchange(client).(*exchange)
	if !ok {
		t.Fatal("a TCP connection was left as it is")
	}
	return e, server.(*net.TCPConn)
}

// answer makes server read n bytes and send them back.
func answer(server net.Conn, n int) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(server, server, int64(n))
		done <- err
	}()
	return done
}

func ask(t *testing.T, e *exchange, question []byte) []byte {
	t.Helper()
	if n, err := e.Write(question); n != len(question) || err != nil {
		t.Fatalf("Write: %d, %v", n, err)
	}
	got := make([]byte, len(question))
	if _, err := io.ReadFull(e, got); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestAnExchangeAnswersLikeItsConnection(t *testing.T) {
	e, server := connect(t)
	// One that goes out with the read, a longer one than is held back, and those
	// that the kernel takes in parts.
	for _, size := range []int{1, 22, 700, maxHeldBack, maxHeldBack + 1, 8 << 20} {
		if err := e.Conn.(*net.TCPConn).SetWriteBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		done := answer(server, size)
		question := bytes.Repeat([]byte("0123456789abcde\n"), size/16+1)[:size]
		var got []byte
		if size <= maxHeldBack {
			got = ask(t, e, question)
		} else { // who does not read while the other end answers would wait for ever
			wrote := make(chan error, 1)
			got = make([]byte, size)
			go func() {
				_, err := e.Write(question)
				wrote <- err
			}()
			if _, err := io.ReadFull(e.Conn, got); err != nil {
				t.Fatal(err)
			}
			if err := <-wrote; err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, question) {
			t.Errorf("the answer to %d bytes is another", size)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnExchangeSendsSeveralWritesInOrder(t *testing.T) {
	e, server := connect(t)
	done := answer(server, 6)
	for _, part := range []string{"ab", "cd"} {
		if _, err := e.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	got := ask(t, e, []byte("ef"))
	rest := make([]byte, 4)
	if _, err := io.ReadFull(e, rest); err != nil {
		t.Fatal(err)
	}
	if all := string(got) + string(rest); all != "abcdef" {
		t.Errorf("got %q", all)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestAnExchangeSendsWhatTheKernelTookInPart(t *testing.T) {
	e, server := connect(t)
	if err := e.Conn.(*net.TCPConn).SetWriteBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		question := bytes.Repeat([]byte("x"), maxHeldBack)
		got := make(chan error, 1)
		go func() {
			b := make([]byte, len(question))
			_, err := io.ReadFull(server, b)
			if err == nil {
				_, err = server.Write([]byte("!"))
			}
			got <- err
		}()
		if _, err := e.Write(question); err != nil {
			t.Fatal(err)
		}
		if n, err := e.Read(make([]byte, 8)); n != 1 || err != nil {
			t.Fatalf("Read: %d, %v", n, err)
		}
		if err := <-got; err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnExchangeKeepsDeadlines(t *testing.T) {
	past, future := time.Now().Add(-time.Second), time.Now().Add(time.Minute)
	for name, set := range map[string]func(e *exchange, t time.Time) error{
		"both": (*exchange).SetDeadline,
		"read": (*exchange).SetReadDeadline,
	} {
		e, server := connect(t)
		answered := answer(server, 2)
		set1 := func(at time.Time) {
			t.Helper()
			if err := set(e, at); err != nil {
				t.Fatal(err)
			}
		}
		set1(past)
		if _, err := e.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: Read behind its deadline: %v", name, err)
		}
		// The connection's own deadline stays behind while the caller's moves on.
		set1(future)
		if got := ask(t, e, []byte("1")); string(got) != "1" {
			t.Errorf("%s: got %q", name, got)
		}
		set1(past)
		set1(time.Time{})
		if got := ask(t, e, []byte("2")); string(got) != "2" {
			t.Errorf("%s: got %q", name, got)
		}
		set1(future)
		set1(future.Add(time.Minute))
		if e.read.set != future && e.read.set != future.Add(time.Minute) {
			t.Errorf("%s: the connection's deadline is %v", name, e.read.set)
		}
		set1(time.Now().Add(10 * time.Millisecond)) // nearer again
		if _, err := e.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: Read until its deadline: %v", name, err)
		}
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnExchangeKeepsTheWriteDeadlineOfALongWrite(t *testing.T) {
	e, server := connect(t)
	past := time.Now().Add(-time.Second)
	if err := e.SetWriteDeadline(past); err != nil {
		t.Fatal(err)
	}
	if err := e.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, server, 4*maxHeldBack)
		done <- err
	}()
	if _, err := e.Write(make([]byte, 4*maxHeldBack)); err != nil {
		t.Errorf("Write before its deadline: %v", err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := e.SetWriteDeadline(past); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Write(make([]byte, 4*maxHeldBack)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write behind its deadline: %v", err)
	}
}

func TestAnExchangeTellsThatItsConnectionEnded(t *testing.T) {
	e, server := connect(t)
	server.Close()
	if _, err := e.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("Read from one that the other end closed: %v", err)
	}
	var failed error
	for range 100 { // the first may go out before the other end refuses it
		_, _ = e.Write([]byte("x"))
		if _, failed = e.Read(make([]byte, 1)); !errors.Is(failed, io.EOF) {
			break
		}
	}
	if failed == nil {
		t.Error("writing to one that the other end closed succeeds")
	}

	e, _ = connect(t)
	ended := make(chan error, 1)
	go func() {
		_, err := e.Read(make([]byte, 1))
		ended <- err
	}()
	e.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read while it is closed: %v", err)
	}
	_, _ = e.Write([]byte("x"))
	if _, err := e.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after it was closed: %v", err)
	}
}

// go-redis looks whether the server closed a connection before it uses it.
func TestAnExchangeIsLookedAtUnlessItHasJustAnswered(t *testing.T) {
	e, _ := connect(t)
	look := func() (looked bool) {
		t.Helper()
		raw, err := e.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = raw.Read(func(uintptr) bool {
			looked = true
			return true
		})
		if err != nil {
			t.Errorf("looking failed: %v", err)
		}
		return looked
	}
	if !look() {
		t.Error("a new one is not looked at")
	}
	e.answered = time.Now().Add(time.Hour)
	if look() {
		t.Error("one that has just answered is looked at")
	}
	e.answered = time.Now().Add(-2 * freshFor)
	if err := e.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := e.SetDeadline(time.Time{}); err != nil { // as go-redis does before it looks
		t.Fatal(err)
	}
	if !look() {
		t.Error("one that answered a while ago is not looked at")
	}
}

func TestOnlyPlainConnectionsAreExchanges(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	for _, c := range []net.Conn{a, tls.Client(a, &tls.Config{InsecureSkipVerify: true})} { //nolint:gosec // nothing is sent
		if got := Exchange(c); got != c {
			t.Errorf("%T became %T", c, got)
		}
	}
}
