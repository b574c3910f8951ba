// What do the toxics do that see bytes, chunks and ends? One class each.

import { between } from "../random.ts";
import { FrameStage } from "./frame_toxics.ts";
import { type End, type Host, type Sink, Stage } from "./stage.ts";
import type { ToxicAttributes, ToxicState, ToxicType } from "./toxic.ts";

/** Makes the stage of a toxic; it does not act yet. */
export function stageOf(toxic: ToxicState, host: Host, next: Sink): Stage<unknown> {
  const { type, attributes } = toxic;
  if (type.startsWith("frame_")) return new FrameStage(toxic, host, next);
  const Kind = kinds[type as keyof typeof kinds] as new (
    attributes: unknown,
    host: Host,
    next: Sink,
  ) => Stage<unknown>;
  return new Kind(attributes, host, next);
}

type AttributesOf<T extends ToxicType> = Required<ToxicAttributes[T]>;

/** Keeps bytes until they are due. */
class Latency extends Stage<AttributesOf<"latency">> {
  // An end is an item as well: on a wire, FIN travels behind the bytes. `tilt` says where in the jitter, from -1 to 1.
  readonly #queue: { readonly item: Uint8Array | End; readonly cameAt: number; readonly tilt: number }[] = [];
  #keptBytes = 0;
  #pumping: Promise<void> | null = null;
  #room: (() => void) | null = null;

  protected async take(bytes: Uint8Array): Promise<void> {
    this.#keep(bytes.slice());
    while (this.acting && (this.#keptBytes > maxKeptBytes || this.#queue.length > maxKeptChunks)) {
      await new Promise<void>((resolve) => this.#room = resolve);
    }
  }

  protected override async finish(how: End): Promise<void> {
    this.#keep(how);
    await this.flush();
  }

  protected override async flush(): Promise<void> {
    await this.#pumping;
  }

  #keep(item: Uint8Array | End): void {
    const tilt = this.attributes.jitter > 0 ? 2 * this.host.random() - 1 : 0;
    this.#queue.push({ item, cameAt: performance.now(), tilt });
    this.#count(item, 1);
    this.#pumping ??= this.#pump();
  }

  async #pump(): Promise<void> {
    for (let first; (first = this.#queue[0]) !== undefined;) {
      const { item, cameAt, tilt } = first;
      await this.until(() => cameAt + this.attributes.latency + tilt * this.attributes.jitter);
      if (typeof item === "string") await this.next.end(item);
      else await this.next.push(item);
      this.#queue.shift();
      this.#count(item, -1);
      this.#room?.();
    }
    this.#pumping = null;
  }

  #count(item: Uint8Array | End, sign: 1 | -1): void {
    if (typeof item === "string") return;
    this.#keptBytes += sign * item.length;
    this.host.keeps(sign * item.length);
  }
}

/** What a latency keeps at most, give or take a chunk; then its side is not read. */
const maxKeptBytes = 4 * 1_048_576, maxKeptChunks = 1024;

class Bandwidth extends Stage<AttributesOf<"bandwidth">> {
  /** When the wire is free again. */
  #freeAt = 0;

  protected async take(bytes: Uint8Array): Promise<void> {
    const now = performance.now();
    // A timer that was late is made up for; a pause of the sender is not saved up.
    if (now - this.#freeAt > lateMs) this.#freeAt = now;
    for (let at = 0; at < bytes.length;) {
      await this.until(() => this.attributes.rate > 0 ? 0 : Infinity);
      if (!this.acting) return this.next.push(bytes.subarray(at));
      const end = Math.min(bytes.length, at + Math.max(1, Math.floor(this.attributes.rate * sliceMs)));
      const from = Math.max(this.#freeAt, performance.now() - lateMs), length = end - at;
      // A kilobyte is 1000 bytes: the rate is bytes a millisecond.
      const due = () => this.attributes.rate > 0 ? from + length / this.attributes.rate : Infinity;
      await this.until(due);
      this.#freeAt = this.acting ? due() : 0;
      await this.next.push(bytes.subarray(at, end));
      at = end;
    }
  }
}

const sliceMs = 100, lateMs = 20;

class SlowClose extends Stage<AttributesOf<"slow_close">> {
  protected take(bytes: Uint8Array): Promise<void> {
    return this.next.push(bytes);
  }

  protected override async finish(how: End): Promise<void> {
    const cameAt = performance.now();
    await this.until(() => cameAt + this.attributes.delay);
    await this.next.end(how);
  }
}

class Timeout extends Stage<AttributesOf<"timeout">> {
  protected override start(): void {
    const from = performance.now();
    this.until(() => this.attributes.timeout > 0 ? from + this.attributes.timeout : Infinity).then(() => {
      if (this.acting) this.removed();
    });
  }

  protected take(bytes: Uint8Array): Promise<void> {
    this.host.struck("dropped", bytes.length, {});
    return Promise.resolve();
  }

  // Whoever waits behind a black hole has lost bytes: the stream cannot go on.
  protected override removed(): void {
    this.host.struck("closed", 0, {});
    this.host.close();
  }
}

class ResetPeer extends Stage<AttributesOf<"reset_peer">> {
  protected async take(bytes: Uint8Array): Promise<void> {
    await this.#reset();
    // Where the toxic was taken away before its time, nothing is lost.
    await this.next.push(bytes);
  }

  protected override async finish(how: End): Promise<void> {
    await this.#reset();
    await this.next.end(how);
  }

  async #reset(): Promise<void> {
    if (!this.host.resettable) return;
    const from = performance.now();
    await this.until(() => from + this.attributes.timeout);
    if (!this.acting) return;
    this.host.struck("reset", 0, {});
    this.host.reset();
  }
}

class Slicer extends Stage<AttributesOf<"slicer">> {
  /** Bytes up to the next cut: counted through chunks, so that cuts do not depend on how chunks come. */
  #left = 0;
  #freeAt = 0;

  protected async take(bytes: Uint8Array): Promise<void> {
    const { average_size: average, size_variation: variation } = this.attributes;
    for (let at = 0; at < bytes.length;) {
      if (!this.acting) return this.next.push(bytes.subarray(at));
      if (this.#left === 0) {
        this.#left = Math.max(1, between(this.host.random, average - variation, average + variation));
      }
      const end = Math.min(bytes.length, at + this.#left);
      this.#left -= end - at;
      await this.next.push(bytes.subarray(at, end));
      at = end;
      if (this.attributes.delay === 0) continue;
      // Timers count milliseconds: shorter delays are gathered until they make one.
      const now = performance.now();
      this.#freeAt = Math.max(this.#freeAt, now - lateMs) + this.attributes.delay / 1000;
      if (this.#freeAt - now >= 1) await this.until(() => this.#freeAt);
    }
  }
}

class LimitData extends Stage<AttributesOf<"limit_data">> {
  #passedBytes = 0;

  protected async take(bytes: Uint8Array): Promise<void> {
    const passing = bytes.subarray(0, Math.max(0, this.attributes.bytes - this.#passedBytes));
    this.#passedBytes += passing.length;
    if (passing.length > 0) await this.next.push(passing);
    if (this.#passedBytes < this.attributes.bytes) return;
    this.host.struck("closed", bytes.length - passing.length, { offset: this.#passedBytes });
    this.host.close();
  }
}

class PacketLoss extends Stage<AttributesOf<"packet_loss">> {
  #dropped = false;
  #offset = 0;

  protected async take(bytes: Uint8Array): Promise<void> {
    const { loss_rate: rate, correlation } = this.attributes, offset = this.#offset;
    this.#offset += bytes.length;
    this.#dropped = this.host.random() < (this.#dropped ? rate + correlation : rate);
    if (this.#dropped) this.host.struck("dropped", bytes.length, { offset });
    else await this.next.push(bytes);
  }
}

class Noop extends Stage<AttributesOf<"noop">> {
  protected take(bytes: Uint8Array): Promise<void> {
    return this.next.push(bytes);
  }
}

class Corrupt extends Stage<{ share?: number; offset?: number }> {
  #passedBytes = 0;
  /** The offset to strike next; drawn as a gap, so that it does not depend on how chunks come. */
  #target = -1;
  #share = NaN;

  protected async take(bytes: Uint8Array): Promise<void> {
    const start = this.#passedBytes;
    this.#passedBytes += bytes.length;
    if (this.attributes.offset !== undefined) {
      this.#target = this.attributes.offset;
    } else if (this.#share !== this.attributes.share) {
      this.#share = this.attributes.share!;
      this.#target = start + this.#gap();
    }
    while (this.#target >= start && this.#target < this.#passedBytes) {
      bytes[this.#target - start]! ^= between(this.host.random, 1, 255);
      this.host.struck("corrupted", 1, { offset: this.#target });
      if (this.attributes.offset !== undefined) break;
      this.#target += 1 + this.#gap();
    }
    await this.next.push(bytes);
  }

  /** How many bytes stay whole before the next that does not. */
  #gap(): number {
    if (this.#share >= 1) return 0;
    return Math.floor(Math.log(1 - this.host.random()) / Math.log(1 - this.#share));
  }
}

class LimitTime extends Stage<AttributesOf<"limit_time">> {
  protected override start(): void {
    const from = performance.now();
    this.until(() => from + this.attributes.time).then(() => {
      if (!this.acting) return;
      this.host.struck("closed", 0, {});
      this.host.close();
    });
  }

  protected take(bytes: Uint8Array): Promise<void> {
    return this.next.push(bytes);
  }
}

class HalfOpen extends Stage<AttributesOf<"half_open">> {
  #swallowed: End | null = null;

  protected take(bytes: Uint8Array): Promise<void> {
    return this.next.push(bytes);
  }

  protected override finish(how: End): Promise<void> {
    if (!this.acting) return this.next.end(how);
    this.#swallowed = how;
    this.host.struck(`swallowed ${how}`, 0, {});
    this.host.over();
    return Promise.resolve();
  }

  protected override async flush(): Promise<void> {
    const how = this.#swallowed;
    this.#swallowed = null;
    if (how !== null) await this.next.end(how);
  }
}

const kinds = {
  latency: Latency,
  bandwidth: Bandwidth,
  slow_close: SlowClose,
  timeout: Timeout,
  reset_peer: ResetPeer,
  slicer: Slicer,
  limit_data: LimitData,
  packet_loss: PacketLoss,
  noop: Noop,
  corrupt: Corrupt,
  limit_time: LimitTime,
  half_open: HalfOpen,
};
