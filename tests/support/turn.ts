// A turn of the event loop.

/** Resolves in a later turn of the event loop: with `ms`, in one that late. For a slowness that is wanted. */
export function turn(ms = 0): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
