package driver

import "context"

// DeadlineOnly reports whether ctx can end only by its deadline: nobody can
// cancel it before. A driver whose client watches deadlines by itself then needs
// nobody to watch the context. It errs towards false.
func DeadlineOnly(ctx context.Context) bool {
	// Asked first: Done makes some contexts start their timer.
	if d, ok := ctx.(interface{ DeadlineOnly() bool }); ok {
		return d.DeadlineOnly()
	}
	return ctx.Done() == nil
}
