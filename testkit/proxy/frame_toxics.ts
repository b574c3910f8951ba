// What do the toxics do that see frames? They follow the frames of any format through the chunks, whatever is chosen.

import { FrameError } from "../../codec/errors.ts";
import { FrameFormat, type FrameFormatOptions } from "../../codec/format.ts";
import { between } from "../random.ts";
import { type End, type Host, type Sink, Stage } from "./stage.ts";
import { maxFieldValue, type ToxicState } from "./toxic.ts";

interface Attributes {
  readonly format: FrameFormatOptions;
  readonly nth?: number;
  readonly every?: number;
  readonly share?: number;
  readonly keep?: number;
  readonly count?: number;
  readonly value?: number;
  readonly add?: number;
}

/** What is done to the frame under way. */
type Action = "pass" | "drop" | "truncate" | "corrupt" | "duplicate" | "hold";

/**
 * A toxic that strikes frames. Frames which are not chosen pass as their bytes come, not only when they are whole, so
 * that it keeps no more than a header, and the one frame that is sent again or later.
 *
 * From a length on that the format does not allow, the stream has no frames, and passes.
 */
export class FrameStage extends Stage<unknown> {
  readonly #type: string;
  #given: FrameFormatOptions;
  #format: FrameFormat;
  /** The header under way: `#headerLength` bytes of it are there. */
  #header: Uint8Array;
  #headerLength = 0;
  /** The number of the frame under way, from 1, its length, and how many of its bytes were seen. */
  #frame = 0;
  #length = 0;
  #seen = 0;
  #action: Action = "pass";
  /** Where in the frame bytes pass up to, when it is truncated. */
  #keep = 0;
  /** Which bytes of the frame are corrupted, by what. */
  readonly #changes = new Map<number, number>();
  /** The frame that is sent again, or later; and whether it waits for the one behind it to pass. */
  #copy: Uint8Array[] = [];
  #waits = false;
  #unframed = false;
  /** Resolved when the frame that was under way as the toxic was taken away is through. */
  #done: PromiseWithResolvers<void> | null = null;

  constructor({ type, attributes }: ToxicState, host: Host, next: Sink) {
    super(attributes, host, next);
    this.#type = type;
    this.#given = this.#attributes.format;
    this.#format = new FrameFormat(this.#given);
    this.#header = new Uint8Array(this.#format.headerLength);
  }

  get #attributes(): Attributes {
    return this.attributes as Attributes;
  }

  protected async take(bytes: Uint8Array): Promise<void> {
    let at = 0;
    // Bytes from here on pass, and are pushed together: a chunk may hold a thousand frames.
    let passFrom = 0;
    while (at < bytes.length) {
      if (this.#unframed) return this.next.push(bytes.subarray(passFrom));
      if (this.#seen === this.#length) {
        this.#adoptFormat();
        const begun = at, { headerLength } = this.#format;
        const held = this.#headerLength, more = Math.min(headerLength - held, bytes.length - at);
        this.#header.set(bytes.subarray(at, at + more), held);
        this.#headerLength += more;
        at += more;
        if (this.#headerLength < headerLength) {
          return this.#push(bytes, passFrom, begun);
        }
        this.#headerLength = 0;
        this.#begin();
        if (this.#unframed) await this.#pushCopy();
        // A whole header that lies in the chunk, of a frame that passes, needs no push of its own.
        if (held === 0 && this.#action === "pass") {
          this.#seen = headerLength;
        } else {
          await this.#push(bytes, passFrom, begun);
          await this.#part(this.#header.subarray(0, this.#unframed ? held + more : headerLength));
          passFrom = at;
        }
      } else {
        const end = Math.min(bytes.length, at + this.#length - this.#seen);
        if (this.#action === "pass") {
          this.#seen += end - at;
        } else {
          await this.#push(bytes, passFrom, at);
          await this.#part(bytes.subarray(at, end));
          passFrom = end;
        }
        at = end;
      }
      if (this.#seen === this.#length && !this.#unframed) {
        if (this.#action === "pass" && (this.#waits || this.#done !== null)) {
          await this.#push(bytes, passFrom, at);
          passFrom = at;
        }
        await this.#finishFrame();
        if (this.#done !== null) {
          this.#done.resolve();
          this.#done = null;
          return this.#push(bytes, passFrom, bytes.length);
        }
      }
    }
    await this.#push(bytes, passFrom, at);
  }

  // While the toxic does not act the frames are followed all the same: it may act again, and not in mid-frame.
  protected override pass(bytes: Uint8Array): Promise<void> {
    return this.gone && this.#done === null ? this.next.push(bytes) : this.take(bytes);
  }

  protected override async finish(how: End): Promise<void> {
    // Of a frame that is cut off itself there is no second one.
    if (this.#action === "duplicate" && this.#amidst) this.#dropCopy();
    await this.#release();
    await this.next.end(how);
  }

  protected override async flush(): Promise<void> {
    // A frame that waits for the one which is passing cannot go out in the midst of it.
    if (this.#amidst ? this.#action === "hold" : this.#waits) await this.#pushCopy();
  }

  protected override async leave(): Promise<void> {
    // What was begun on a frame is done to the whole of it, or those behind it could not be found.
    if (this.#amidst && (this.#action !== "pass" || this.#waits)) this.#done = Promise.withResolvers();
    else await this.#release();
  }

  protected override async left(): Promise<void> {
    await this.#done?.promise;
  }

  /** Whether a frame is under way, its header seen. */
  get #amidst(): boolean {
    return this.#seen < this.#length;
  }

  /** Lets go of all that is kept. */
  async #release(): Promise<void> {
    await this.#pushCopy();
    const header = this.#header.subarray(0, this.#headerLength);
    this.#headerLength = 0;
    if (header.length > 0) await this.next.push(header);
  }

  /** A change of the format holds from the next frame on. */
  #adoptFormat(): void {
    if (this.#headerLength > 0) return;
    const { format } = this.#attributes;
    if (format === this.#given) return;
    this.#given = format;
    this.#format = new FrameFormat(format);
    this.#header = new Uint8Array(this.#format.headerLength);
  }

  /** The header is whole: what is to be done with the frame? */
  #begin(): void {
    const view = new DataView(this.#header.buffer);
    this.#seen = 0;
    this.#action = "pass";
    try {
      this.#length = this.#format.frameLengthAt(view, 0);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.#unframed = true;
      this.host.struck("lost the frames", 0, { frame: this.#frame + 1 });
      return;
    }
    this.#frame++;
    if (!this.#chosen()) return;
    const { random } = this.host, { headerLength, lengthFieldOffset } = this.#format;
    const length = this.#length, { keep, count = 1 } = this.#attributes;
    switch (this.#type) {
      case "frame_drop":
        this.#action = "drop";
        return this.#struck("dropped", length);
      case "frame_duplicate":
        this.#action = "duplicate";
        return this.#struck("duplicated", length);
      case "frame_reorder":
        // One that is being overtaken is overtaken by one frame.
        if (this.#waits) return;
        this.#action = "hold";
        return this.#struck("reordered", length);
      case "frame_truncate":
        this.#keep = Math.min(keep ?? between(random, 0, length - 1), length);
        this.#action = "truncate";
        return this.#struck("truncated", length - this.#keep);
      case "frame_corrupt": {
        const places = length - (headerLength - lengthFieldOffset);
        this.#changes.clear();
        while (this.#changes.size < Math.min(count, places)) {
          const place = between(random, 0, places - 1);
          this.#changes.set(
            place < lengthFieldOffset ? place : place + headerLength - lengthFieldOffset,
            between(random, 1, 255),
          );
        }
        this.#action = "corrupt";
        return this.#struck("corrupted", this.#changes.size);
      }
      case "frame_length":
        this.#rewriteLength(view);
        this.#action = "corrupt"; // the header goes out from where it was gathered
        this.#changes.clear();
        return this.#struck("changed the length", this.#format.lengthFieldLength);
    }
  }

  #rewriteLength(view: DataView): void {
    const { value, add = 0 } = this.#attributes, format = this.#format, modulus = maxFieldValue(format) + 1;
    const field = this.#length - format.headerLength - format.lengthAdjustment;
    format.writeField(
      view,
      format.lengthFieldOffset,
      value ?? (((field + add) % modulus) + modulus) % modulus,
    );
  }

  #chosen(): boolean {
    if (!this.acting) return false;
    const { nth, every, share } = this.#attributes;
    if (nth !== undefined) return this.#frame === nth;
    if (every !== undefined) return this.#frame % every === 0;
    return this.host.random() < share!;
  }

  /** Bytes of the frame under way, which does not simply pass. */
  async #part(bytes: Uint8Array): Promise<void> {
    const start = this.#seen;
    this.#seen += bytes.length;
    switch (this.#action) {
      case "drop":
        return;
      case "truncate":
        bytes = bytes.subarray(0, Math.max(0, this.#keep - start));
        break;
      case "corrupt":
        for (const [place, change] of this.#changes) {
          if (place >= start && place < this.#seen) bytes[place - start]! ^= change;
        }
        break;
      case "duplicate":
      case "hold":
        this.#copy.push(bytes.slice());
        this.host.keeps(bytes.length);
        if (this.#action === "hold") return;
    }
    if (bytes.length > 0) await this.next.push(bytes);
  }

  async #finishFrame(): Promise<void> {
    if (this.#action === "hold") {
      this.#waits = true;
      this.#action = "pass";
    } else if (this.#action === "duplicate" || this.#waits) {
      await this.#pushCopy();
    }
  }

  async #pushCopy(): Promise<void> {
    const copy = this.#copy;
    this.#dropCopy();
    for (const bytes of copy) await this.next.push(bytes);
  }

  #dropCopy(): void {
    for (const { length } of this.#copy) this.host.keeps(-length);
    this.#copy = [];
    this.#waits = false;
    if (this.#action === "hold") this.#action = "pass";
  }

  async #push(bytes: Uint8Array, from: number, to: number): Promise<void> {
    if (from < to) await this.next.push(bytes.subarray(from, to));
  }

  #struck(what: string, bytes: number): void {
    this.host.struck(what, bytes, { frame: this.#frame });
  }
}
