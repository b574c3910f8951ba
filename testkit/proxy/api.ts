// What does toxiproxy's HTTP API say? The same here: paths, JSON, statuses and errors, so that its clients work.

import { FaultProxy, type ProxyEvent, type Toxic, type ToxicChange } from "../proxy.ts";
import { newSeed } from "../random.ts";
import type { Address } from "./socket.ts";
import { isToxicType } from "./toxic.ts";

/** Options of {@linkcode serveProxies}. */
export interface ProxyApiOptions {
  /** The port of the API; 0 for a free one. @default {8474} */
  port?: number;
  /** Where the API listens. @default {"127.0.0.1"} */
  hostname?: string;
  /** The seed of all its proxies. @default {a new one} */
  seed?: number;
  /** Called with all that happens on any of its proxies. */
  onEvent?: (event: ProxyEvent) => void;
}

/**
 * Serves toxiproxy's HTTP API, which makes and changes proxies. Disposing of it closes them all.
 *
 * Beyond toxiproxy, the JSON of a proxy has `toxics` when it is made, `resettable`, `seed` and `stats`.
 *
 * @example
 * ```ts
 * import { serveProxies } from "@framewire/framewire/testkit";
 * import { assertEquals } from "@std/assert";
 *
 * await using api = serveProxies({ port: 0, seed: 7 });
 * const response = await fetch(`http://127.0.0.1:${api.addr.port}/proxies`, {
 *   method: "POST",
 *   body: JSON.stringify({ name: "database", listen: "127.0.0.1:0", upstream: "127.0.0.1:5432" }),
 * });
 * assertEquals(response.status, 201);
 * assertEquals((await response.json()).enabled, true);
 * ```
 */
export function serveProxies(options: ProxyApiOptions = {}): ProxyApi {
  return new ProxyApi(options);
}

/** An API that is served, from {@linkcode serveProxies}. */
export class ProxyApi implements AsyncDisposable {
  /** Where the API listens. */
  readonly addr: Deno.NetAddr;
  /** The seed of its proxies. */
  readonly seed: number;
  readonly #proxies = new Map<string, FaultProxy>();
  readonly #onEvent: ((event: ProxyEvent) => void) | undefined;
  readonly #cut = new AbortController();
  readonly #server: Deno.HttpServer<Deno.NetAddr>;

  /** Listens. */
  constructor({ port = 8474, hostname = "127.0.0.1", seed = newSeed(), onEvent }: ProxyApiOptions) {
    this.seed = seed;
    this.#onEvent = onEvent;
    const { signal } = this.#cut;
    this.#server = Deno.serve(
      { port, hostname, signal, onListen: () => {} },
      (request) => this.#handle(request),
    );
    this.addr = this.#server.addr;
  }

  /** Its proxies, by name. */
  get proxies(): ReadonlyMap<string, FaultProxy> {
    return this.#proxies;
  }

  /**
   * Makes the proxies of a list, in toxiproxy's JSON; those that are there as they are asked for stay.
   *
   * @throws {ProxyApiError} If something is wrong with it.
   */
  async populate(list: unknown): Promise<FaultProxy[]> {
    const proxies: FaultProxy[] = [];
    for (const wanted of wantedProxies(list)) {
      const old = this.#proxies.get(wanted.name);
      if (old !== undefined && !differs(old, wanted)) {
        proxies.push(old);
        continue;
      }
      await old?.[Symbol.asyncDispose]();
      this.#proxies.delete(wanted.name);
      proxies.push(await this.#make(wanted));
    }
    return proxies;
  }

  /** Closes the API and its proxies. */
  async [Symbol.asyncDispose](): Promise<void> {
    // A request that never ends does not keep it.
    const timer = setTimeout(() => this.#cut.abort(), closeTimeoutMs);
    await this.#server.shutdown();
    clearTimeout(timer);
    await Promise.all([...this.#proxies.values()].map((proxy) => proxy[Symbol.asyncDispose]()));
  }

  async #handle(request: Request): Promise<Response> {
    // A page in a browser may post to any address: none is to switch off what is being tested.
    if (request.headers.get("user-agent")?.startsWith("Mozilla/")) {
      return new Response("User agent not allowed\n", { status: 403 });
    }
    try {
      return await this.#answer(request);
    } catch (error) {
      const { message, status } = error instanceof ProxyApiError
        ? error
        : new ProxyApiError(error instanceof Error ? error.message : String(error), 500);
      return Response.json({ error: message, status }, { status });
    }
  }

  async #answer(request: Request): Promise<Response> {
    const path = new URL(request.url).pathname.split("/").slice(1).map(decoded);
    const [first, name, toxics, toxicName] = path;
    // POST is how clients before PATCH change things.
    const method = request.method === "PATCH" ? "POST" : request.method;
    const route = `${method} /${first}${path.length > 1 ? `/${path.length}` : ""}`;
    switch (route) {
      case "GET /version":
        return Response.json({ version });
      case "GET /metrics":
        return new Response(this.#metrics(), { headers: { "content-type": "text/plain; version=0.0.4" } });
      case "POST /reset":
        for (const proxy of this.#proxies.values()) {
          await proxy.update({ enabled: true });
          for (const toxic of proxy.toxics) proxy.removeToxic(toxic.name);
        }
        return new Response(null, { status: 204 });
      case "POST /populate":
        return Response.json({ proxies: (await this.populate(await bodyOf(request))).map(jsonOf) }, {
          status: 201,
        });
      case "GET /proxies":
        return Response.json(
          Object.fromEntries([...this.#proxies].map(([name, proxy]) => [name, jsonOf(proxy)])),
        );
      case "POST /proxies": {
        if (request.method === "PATCH") break;
        const wanted = wantedProxy(await bodyOf(request), "");
        if (this.#proxies.has(wanted.name)) throw new ProxyApiError("proxy already exists", 409);
        return Response.json(jsonOf(await this.#make(wanted)), { status: 201 });
      }
      case "GET /proxies/2":
        return Response.json(jsonOf(this.#proxy(name)));
      case "POST /proxies/2": {
        const proxy = this.#proxy(name), change = await bodyOf(request);
        const wanted = wantedProxy({ ...jsonOf(proxy), ...objectOf(change), name: proxy.name }, "");
        const { enabled, listen, upstream } = wanted;
        await proxy.update(differs(proxy, wanted) ? { enabled, listen, upstream } : { enabled });
        return Response.json(jsonOf(proxy));
      }
      case "DELETE /proxies/2": {
        const proxy = this.#proxy(name);
        this.#proxies.delete(proxy.name);
        await proxy[Symbol.asyncDispose]();
        return new Response(null, { status: 204 });
      }
    }
    if (first === "proxies" && toxics === "toxics" && path.length <= 4) {
      const answer = await this.#answerOfToxics(method, this.#proxy(name), toxicName, request);
      if (answer !== null) return answer;
    }
    return new Response("404 page not found\n", { status: 404 });
  }

  async #answerOfToxics(
    method: string,
    proxy: FaultProxy,
    name: string | undefined,
    request: Request,
  ): Promise<Response | null> {
    const change = method === "POST" ? objectOf(await bodyOf(request)) : {};
    if (name === undefined) {
      if (method === "GET") return Response.json(proxy.toxics);
      if (method !== "POST" || request.method === "PATCH") return null;
      return Response.json(await added(proxy, change));
    }
    const toxic = proxy.toxics.find((toxic) => toxic.name === name);
    if (toxic === undefined) throw new ProxyApiError("toxic not found", 404);
    switch (method) {
      case "GET":
        return Response.json(toxic);
      case "POST": {
        const { attributes, toxicity } = change as ToxicChange;
        return Response.json(
          checked(() =>
            proxy.updateToxic(name, {
              ...(attributes ? { attributes } : {}),
              ...(typeof toxicity === "number" ? { toxicity } : {}),
            })
          ),
        );
      }
      case "DELETE":
        proxy.removeToxic(name);
        return new Response(null, { status: 204 });
    }
    return null;
  }

  async #make({ name, listen, upstream, enabled, resettable, toxics }: WantedProxy): Promise<FaultProxy> {
    const proxy = checked(() =>
      new FaultProxy({
        name,
        listen,
        upstream,
        resettable,
        toxics,
        seed: this.seed,
        ...(this.#onEvent ? { onEvent: this.#onEvent } : {}),
      })
    );
    // Only one that listens is there.
    if (enabled) await proxy.update({ enabled });
    if (this.#proxies.has(name)) {
      // Another request was faster.
      await proxy[Symbol.asyncDispose]();
      throw new ProxyApiError("proxy already exists", 409);
    }
    this.#proxies.set(name, proxy);
    return proxy;
  }

  #proxy(name: string | undefined): FaultProxy {
    const proxy = this.#proxies.get(name ?? "");
    if (proxy === undefined) throw new ProxyApiError("proxy not found", 404);
    return proxy;
  }

  /** As Prometheus reads it: toxiproxy's two metrics, and what they lack. */
  #metrics(): string {
    const lines: string[] = [];
    const metric = (
      name: string,
      type: string,
      help: string,
      values: (proxy: FaultProxy) => [string, number][],
    ) => {
      lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
      for (const proxy of this.#proxies.values()) {
        const of = `proxy="${label(proxy.name)}",listener="${shown(proxy.addr)}",upstream="${
          shown(proxy.upstream)
        }"`;
        for (const [more, value] of values(proxy)) lines.push(`${name}{${more}${of}} ${value}`);
      }
    };
    const streams = ["upstream", "downstream"] as const;
    metric(
      "toxiproxy_proxy_received_bytes_total",
      "counter",
      "Bytes read.",
      (proxy) => streams.map((stream) => [`direction="${stream}",`, proxy.stats()[stream].readBytes]),
    );
    metric(
      "toxiproxy_proxy_sent_bytes_total",
      "counter",
      "Bytes written.",
      (proxy) => streams.map((stream) => [`direction="${stream}",`, proxy.stats()[stream].writtenBytes]),
    );
    metric("framewire_proxy_connections_total", "counter", "Connections accepted.", (proxy) => [
      ["", proxy.stats().connectionsAccepted],
    ]);
    metric("framewire_proxy_connections_open", "gauge", "Connections that are open.", (proxy) => [
      ["", proxy.stats().connectionsOpen],
    ]);
    metric(
      "framewire_proxy_faults_total",
      "counter",
      "How often toxics struck.",
      (proxy) =>
        Object.entries(proxy.stats().faults).map(([toxic, count]) => [`toxic="${label(toxic)}",`, count]),
    );
    return `${lines.join("\n")}\n`;
  }
}

/** A request was refused, or the start of a proxy failed; `status` is the HTTP status for that. */
export class ProxyApiError extends Error {
  /** Names the class, also in a minified program. */
  override readonly name = "ProxyApiError";
  /** The HTTP status. */
  readonly status: number;

  /** Takes the sentence and the status. */
  constructor(message: string, status: number) {
    super(message);
    this.status = status;
  }
}

/**
 * Reads `HOST:PORT`, `[IPV6]:PORT` or `:PORT`.
 *
 * @throws {ProxyApiError} If it is none.
 */
export function addressOf(text: string): Required<Address> {
  const [, bracketed, plain, port] = text.match(/^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/) ?? [];
  const name = bracketed ?? plain;
  if (port === undefined || Number(port) > 65_535) {
    throw new ProxyApiError(`bad request body: ${JSON.stringify(text)} is no address as HOST:PORT`, 400);
  }
  // As the listener will tell it.
  return { hostname: name === "" || name === "localhost" ? "127.0.0.1" : name!, port: Number(port) };
}

/** An address as text. */
export function shown({ hostname, port }: Required<Address>): string {
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

/** How long requests under way may take when the API closes. */
const closeTimeoutMs = 1000;

/** The version of toxiproxy whose API this is. */
const version = "2.12.0";

interface WantedProxy {
  readonly name: string;
  readonly listen: Required<Address>;
  readonly upstream: Required<Address>;
  readonly enabled: boolean;
  readonly resettable: boolean;
  readonly toxics: Toxic[];
}

function wantedProxies(list: unknown): WantedProxy[] {
  if (!Array.isArray(list)) throw new ProxyApiError("bad request body: it must be a list of proxies", 400);
  return list.map((proxy, i) => wantedProxy(proxy, ` at proxy ${i + 1}`));
}

function wantedProxy(value: unknown, where: string): WantedProxy {
  const { name, listen, upstream, enabled, resettable, toxics } = objectOf(value);
  for (const [field, given] of Object.entries({ name, upstream })) {
    if (typeof given !== "string" || given === "") {
      throw new ProxyApiError(`missing required field: ${field}${where}`, 400);
    }
  }
  for (const [field, given] of Object.entries({ enabled, resettable })) {
    if (given !== undefined && given !== null && typeof given !== "boolean") {
      throw new ProxyApiError(`bad request body: ${field} must be true or false${where}`, 400);
    }
  }
  if (listen !== undefined && typeof listen !== "string") {
    throw new ProxyApiError(`bad request body: listen must be text${where}`, 400);
  }
  return {
    name: name as string,
    listen: addressOf(listen || "127.0.0.1:0"),
    upstream: addressOf(upstream as string),
    enabled: enabled !== false,
    resettable: resettable === true,
    toxics: Array.isArray(toxics) ? toxics : [],
  };
}

/** Whether a proxy would have to move; port 0 asks for any. */
function differs(proxy: FaultProxy, { listen, upstream }: WantedProxy): boolean {
  return proxy.addr.hostname !== listen.hostname || (listen.port !== 0 && proxy.addr.port !== listen.port) ||
    shown(proxy.upstream) !== shown(upstream);
}

function jsonOf(proxy: FaultProxy) {
  const { name, enabled, seed, resettable, toxics } = proxy;
  return {
    name,
    listen: shown(proxy.addr),
    upstream: shown(proxy.upstream),
    enabled,
    toxics,
    resettable,
    seed,
    stats: proxy.stats(),
  };
}

async function added(proxy: FaultProxy, toxic: Record<string, unknown>): Promise<unknown> {
  const { type, stream, name } = toxic;
  if (typeof stream === "string") toxic.stream = stream.toLowerCase();
  if (!["upstream", "downstream", undefined].includes(toxic.stream as string)) {
    throw new ProxyApiError("stream was invalid, can be either upstream or downstream", 400);
  }
  if (!isToxicType(type)) throw new ProxyApiError("invalid toxic type", 400);
  const taken = name || `${type}_${toxic.stream ?? "downstream"}`;
  if (proxy.toxics.some((other) => other.name === taken)) {
    throw new ProxyApiError("toxic already exists", 409);
  }
  try {
    return await proxy.addToxic(toxic as Toxic);
  } catch (error) {
    throw refusal(error);
  }
}

function checked<T>(action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw refusal(error);
  }
}

function refusal(error: unknown): unknown {
  return error instanceof RangeError ? new ProxyApiError(`bad request body: ${error.message}`, 400) : error;
}

async function bodyOf(request: Request): Promise<unknown> {
  try {
    return await request.json();
  } catch (error) {
    throw new ProxyApiError(`bad request body: ${error instanceof Error ? error.message : error}`, 400);
  }
}

function objectOf(value: unknown): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  throw new ProxyApiError("bad request body: it must be an object", 400);
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function label(text: string): string {
  return text.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n");
}
