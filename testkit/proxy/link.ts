// What is one connection through the proxy? Two directions, each a loop that reads, a chain of toxics, and an end.

import { type Random, randomFrom } from "../random.ts";
import type { ProxySocket } from "./socket.ts";
import type { End, Host, Sink, Stage } from "./stage.ts";
import type { Stream, ToxicState } from "./toxic.ts";
import { stageOf } from "./toxics.ts";

/** Bytes of one direction. */
export interface StreamCounts {
  /** Read from its source. */
  readBytes: number;
  /** Accepted by the socket of its destination. */
  writtenBytes: number;
}

/** Why a connection is over. */
export type LinkEnd =
  /** Both sides ended it. */
  | "ended"
  /** One side reset it, or was found gone. */
  | "broken"
  /** A toxic closed it. */
  | "closed"
  /** A toxic reset it. */
  | "reset"
  /** The proxy was switched off or disposed of. */
  | "down";

/** What a link tells its proxy. */
export interface LinkObserver {
  /** Whether anybody wants {@linkcode LinkObserver.bytes}. */
  readonly watchesBytes: boolean;
  /** Counts of all the proxy's connections, by direction. */
  readonly counts: Readonly<Record<Stream, StreamCounts>>;
  bytes(type: "read" | "written", stream: Stream, bytes: number): void;
  passed(how: End, stream: Stream): void;
  struck(toxic: ToxicState, what: string, bytes: number, where: { offset?: number; frame?: number }): void;
  keeps(bytes: number): void;
}

/** A connection between two sockets. */
export class Link {
  /** Resolves when both sockets are closed and nothing runs. */
  readonly finished: Promise<LinkEnd>;
  readonly upstream: Direction;
  readonly downstream: Direction;
  readonly observer: LinkObserver;
  #ending: LinkEnd | null = null;
  #disposed = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `seed` is this connection's own. */
  constructor(
    client: ProxySocket,
    server: ProxySocket,
    seed: string,
    toxics: Iterable<ToxicState>,
    observer: LinkObserver,
  ) {
    this.observer = observer;
    this.upstream = new Direction(this, "upstream", client, server, seed);
    this.downstream = new Direction(this, "downstream", server, client, seed);
    for (const toxic of toxics) this.add(toxic);
    this.finished = Promise.all([this.upstream.run(), this.downstream.run()]).then(() => {
      this.#dispose();
      return this.#ending ?? "ended";
    });
  }

  /** Whether nothing is written any more. */
  get ending(): boolean {
    return this.#ending !== null;
  }

  add(toxic: ToxicState): void {
    this[toxic.stream].add(toxic);
  }

  change(toxic: ToxicState): void {
    this[toxic.stream].change(toxic);
  }

  remove(toxic: ToxicState): void {
    this[toxic.stream].remove(toxic.name);
  }

  /** Ends both sides: what was written arrives, what was not is dropped. */
  close(): void {
    if (!this.#stop("closed")) return;
    // A socket that is closed with bytes unread resets, and a reset destroys what the peer has not read yet: both
    // sides are read on until they end as well, for a while.
    this.#timer = setTimeout(() => this.#dispose(), lingerMs);
    for (const direction of this.#directions) direction.closeWrite();
  }

  /** Closes both sides at once, with RST where that can be sent. */
  reset(why: LinkEnd = "reset"): void {
    this.#stop(why);
    for (const { from } of this.#directions) from.reset();
    this.#dispose();
  }

  /** Closes both sides at once. */
  abort(): void {
    this.#stop("down");
    this.#dispose();
  }

  /** One direction has nothing more to do; closes the sockets when the other has not either. */
  over(): void {
    if (!this.ending && this.upstream.over && this.downstream.over) {
      this.#stop("ended");
      this.#dispose();
    }
  }

  get #directions(): readonly Direction[] {
    return [this.upstream, this.downstream];
  }

  #stop(why: LinkEnd): boolean {
    if (this.#ending !== null) return false;
    this.#ending = why;
    for (const direction of this.#directions) direction.stop();
    return true;
  }

  #dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    clearTimeout(this.#timer);
    for (const { from } of this.#directions) from.close();
  }
}

/** How long the sides of a connection that a toxic closed may take to end as well. */
const lingerMs = 500;

interface Staged {
  toxic: ToxicState;
  readonly stage: Stage<unknown>;
  /** Drawn once: the toxic strikes where this is below its toxicity. */
  readonly strikes: number;
  leaving: boolean;
}

class Direction implements Sink {
  readonly from: ProxySocket;
  /** Its own bytes. */
  readonly counts: StreamCounts = { readBytes: 0, writtenBytes: 0 };
  /** The destination waits for nothing: its FIN is sent or swallowed, or it is gone. */
  over = false;
  readonly #link: Link;
  readonly #stream: Stream;
  readonly #to: ProxySocket;
  readonly #seed: string;
  readonly #stages: Staged[] = [];
  /** Where bytes that were read go first: the first stage, or this. */
  #head: Sink = this;
  #writing: Promise<void> = Promise.resolve();
  #lost = false;

  constructor(link: Link, stream: Stream, from: ProxySocket, to: ProxySocket, seed: string) {
    this.#link = link;
    this.#stream = stream;
    this.from = from;
    this.#to = to;
    this.#seed = seed;
  }

  /** Reads to the end, one chunk at a time: the next is read when this one has been taken. */
  async run(): Promise<void> {
    const { from } = this, link = this.#link, { observer } = link, total = observer.counts[this.#stream];
    let how: End = "fin";
    try {
      for (let bytes; (bytes = await from.read()) !== null;) {
        // What comes after the end is read all the same, and thrown away.
        if (link.ending) continue;
        this.counts.readBytes += bytes.length;
        total.readBytes += bytes.length;
        if (observer.watchesBytes) observer.bytes("read", this.#stream, bytes.length);
        await this.#head.push(bytes);
      }
    } catch {
      how = "reset";
    }
    if (!link.ending) await this.#head.end(how);
  }

  async push(bytes: Uint8Array): Promise<void> {
    const link = this.#link, { observer } = link;
    if (link.ending || this.#lost) return;
    try {
      await (this.#writing = this.#to.write(bytes));
      this.counts.writtenBytes += bytes.length;
      observer.counts[this.#stream].writtenBytes += bytes.length;
      if (observer.watchesBytes) observer.bytes("written", this.#stream, bytes.length);
    } catch {
      // The destination is gone. Reading from it will say so as well, behind what it sent before.
      this.#lose();
    }
  }

  async end(how: End): Promise<void> {
    const link = this.#link;
    if (link.ending) return;
    link.observer.passed(how, this.#stream);
    if (how === "reset") return link.reset("broken");
    if (this.#lost) return;
    try {
      await this.#to.closeWrite();
      this.finish();
    } catch {
      this.#lose();
    }
  }

  add(toxic: ToxicState): void {
    const random = randomFrom(hash(`${this.#seed}/${toxic.stream}/${toxic.name}`)), strikes = random();
    const stage = stageOf(toxic, this.#hostOf(toxic, random), this);
    const last = this.#stages.at(-1);
    this.#stages.push({ toxic, stage, strikes, leaving: false });
    if (last === undefined) this.#head = stage;
    else last.stage.next = stage;
    stage.set(toxic.attributes, strikes < toxic.toxicity);
  }

  change(toxic: ToxicState): void {
    const found = this.#staged(toxic.name);
    if (found === undefined) return;
    found.toxic = toxic;
    found.stage.set(toxic.attributes, found.strikes < toxic.toxicity);
  }

  remove(name: string): void {
    const found = this.#staged(name);
    if (found === undefined) return;
    found.leaving = true;
    // Until it has let go of all that it kept it stays in the chain, so that nothing overtakes that.
    found.stage.remove().then(() => {
      const at = this.#stages.indexOf(found);
      this.#stages.splice(at, 1);
      const before = this.#stages[at - 1], after = this.#stages[at]?.stage ?? this;
      if (before === undefined) this.#head = after;
      else before.stage.next = after;
    });
  }

  /** The stage of a toxic; not one that leaves, whose name may be another's by now. */
  #staged(name: string): Staged | undefined {
    return this.#stages.find(({ toxic, leaving }) => toxic.name === name && !leaving);
  }

  /** Lets go of whatever toxics wait for. */
  stop(): void {
    for (const { toxic, stage } of this.#stages) stage.set(toxic.attributes, false);
  }

  /** FIN, once the write under way is done. */
  closeWrite(): void {
    // Either fails where the destination is gone, which the end of reading tells.
    this.#writing.catch(() => {}).then(() => this.#to.closeWrite()).catch(() => {});
  }

  finish(): void {
    this.over = true;
    this.#link.over();
  }

  #lose(): void {
    const link = this.#link;
    if (link.ending || this.#lost) return;
    this.#lost = true;
    const other = this === link.upstream ? link.downstream : link.upstream;
    // Where the other direction is over nobody would tell the source.
    if (other.over) link.reset("broken");
    else this.finish();
  }

  #hostOf(toxic: ToxicState, random: Random): Host {
    const link = this.#link, { resettable } = this.from;
    return {
      random,
      resettable,
      close: () => link.close(),
      reset: () => link.reset(),
      over: () => this.finish(),
      struck: (what, bytes, where) => link.ending || link.observer.struck(toxic, what, bytes, where),
      keeps: (bytes) => link.observer.keeps(bytes),
    };
  }
}

/** A number of 32 bits from text (FNV-1a). */
export function hash(text: string): number {
  let sum = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) sum = Math.imul(sum ^ text.charCodeAt(i), 0x01000193);
  return sum >>> 0;
}
