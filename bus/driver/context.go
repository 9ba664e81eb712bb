package driver

import "context"

// Cancellation returns the context to watch for ctx being cancelled, nil when
// nobody can cancel it. It may lack ctx's deadline: it is for a driver whose
// client watches deadlines by itself, and needs to be told only of the rest.
// Watching it is cheaper than watching ctx, which may have to start a timer.
func Cancellation(ctx context.Context) context.Context {
	for {
		d, ok := ctx.(interface{ WithoutDeadline() context.Context })
		if !ok {
			break
		}
		ctx = d.WithoutDeadline()
	}
	if ctx.Done() == nil {
		return nil
	}
	return ctx
}
