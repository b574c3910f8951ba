// Which server is meant?

/** Takes `HOST:PORT` apart; an IPv6 address stands in brackets. Null where it is something else. */
export function addressOf(target: string): { hostname: string; port: number } | null {
  const [, hostname, port] = /^(\[[^\]]+\]|[^:]+):(\d{1,5})$/.exec(target) ?? [];
  if (hostname === undefined || Number(port) < 1 || Number(port) > 65_535) return null;
  return { hostname: hostname.replace(/^\[|\]$/g, ""), port: Number(port) };
}
