// How long did it take? Latencies by how many there were of each, to three digits.

import { build, encodeIntoCompressedBase64, type Histogram } from "hdr-histogram-js";

/** Latencies in milliseconds: so many of a hundred answers took no longer. NaN where there were none. */
export interface Percentiles {
  /** The shortest. */
  readonly min: number;
  /** The mean. */
  readonly mean: number;
  /** Half took no longer. */
  readonly p50: number;
  /** 75 of a hundred took no longer. */
  readonly p75: number;
  /** 90 of a hundred. */
  readonly p90: number;
  /** 99 of a hundred. */
  readonly p99: number;
  /** 999 of a thousand. */
  readonly "p99.9": number;
  /** 9999 of ten thousand. */
  readonly "p99.99": number;
  /** The longest. */
  readonly max: number;
}

/** A histogram of latencies. */
export class Latencies {
  // Counts in doubles: 32 bits would overflow within minutes.
  readonly #histogram: Histogram = build({
    bitBucketSize: 64,
    autoResize: true,
    numberOfSignificantValueDigits: 3,
  });

  get count(): number {
    return this.#histogram.totalCount;
  }

  add(ms: number, count: number): void {
    this.#histogram.recordValueWithCount(Math.max(0, Math.round(ms * unitsPerMs)), count);
  }

  addAll(other: Latencies): void {
    // The other's memory may be of its size alone, which adding takes for all there is.
    if (other.count > 0) this.#histogram.add(other.#histogram);
  }

  clear(): void {
    this.#histogram.reset();
  }

  /** The latency that a share of the answers did not exceed, in milliseconds; `percent` from 0 to 100. */
  at(percent: number): number {
    if (this.count === 0) return NaN;
    // The histogram gives the upper end of a step, which may be above all that there was.
    return Math.min(this.#histogram.getValueAtPercentile(percent), this.#histogram.maxValue) / unitsPerMs;
  }

  percentiles(): Percentiles {
    const none = this.count === 0, { minNonZeroValue, maxValue, mean } = this.#histogram;
    return {
      min: none ? NaN : Math.min(minNonZeroValue, maxValue) / unitsPerMs,
      mean: none ? NaN : mean / unitsPerMs,
      p50: this.at(50),
      p75: this.at(75),
      p90: this.at(90),
      p99: this.at(99),
      "p99.9": this.at(99.9),
      "p99.99": this.at(99.99),
      max: none ? NaN : maxValue / unitsPerMs,
    };
  }

  /** Latency by percentile, denser towards 100, as far as single answers tell; ends with the maximum. */
  curve(): [percent: number, ms: number][] {
    const points: [number, number][] = [];
    for (let step = 0; this.count > 0 && 10 ** (step / pointsPerDecade) < this.count; step++) {
      const percent = 100 * (1 - 10 ** (-step / pointsPerDecade));
      points.push([percent, this.at(percent)]);
    }
    if (this.count > 0) points.push([100, this.at(100)]);
    return points;
  }

  /** All of it in the format that HdrHistogram's tools read, in tenths of a microsecond. */
  encoded(): string {
    return encodeIntoCompressedBase64(this.#histogram);
  }
}

const unitsPerMs = 10_000;
const pointsPerDecade = 10;
