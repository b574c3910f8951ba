// What became of a case: a verdict on behaviour, one on the closing, and what was on the wire.

import { WireError, type WireEvent } from "../wire.ts";
import { type CaseText, type Closing, Misbehaviour, NotJudged } from "./case.ts";

/** What was judged, and what came. */
export interface Verdict {
  /** Whether it is what was accepted. */
  readonly ok: boolean;
  /** What came, in words; empty where it is what was accepted. */
  readonly came: string;
}

/** What became of a case. */
export interface CaseResult extends CaseText {
  /** `error`: it could not be judged, as where the target accepted no connection. */
  readonly status: "passed" | "failed" | "error" | "skipped";
  /** Null where there is none: the case was skipped. */
  readonly behaviour: Verdict | null;
  /** Null where there is none: the case was skipped, or could not be played. */
  readonly closed: Verdict | null;
  /** Why it was skipped, or could not be judged. */
  readonly reason: string | null;
  /** How long it took. */
  readonly durationMs: number;
  /** What happened on each connection, in the order in which they were made. Kept where the case failed. */
  readonly wires: readonly (readonly WireEvent[])[];
}

/** Whether a result means that the target, or the run, is not in order. */
export function isBad({ status }: { readonly status: CaseResult["status"] }): boolean {
  return status === "failed" || status === "error";
}

/** A part of a case that is judged, and its connections. */
export interface Play {
  readonly text: CaseText;
  readonly limitMs: number;
  /** Plays the case. */
  readonly run: () => Promise<void>;
  /** How the connection was closed; asked when the case was played. */
  readonly closing: () => Promise<Closing>;
  readonly wires: () => readonly (readonly WireEvent[])[];
}

/** Plays a case and judges it. It is given up when its time is over, whatever it waits for. Never throws. */
export async function judge({ text, limitMs, run, closing, wires }: Play): Promise<CaseResult> {
  const startedAt = performance.now();
  const result = (
    status: CaseResult["status"],
    behaviour: Verdict | null,
    closed: Verdict | null,
    reason: string | null = null,
  ): CaseResult => ({
    ...textOf(text),
    status,
    behaviour,
    closed,
    reason,
    durationMs: Math.round((performance.now() - startedAt) * 1000) / 1000,
    wires: isBad({ status }) ? wires() : [],
  });
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => late.reject(new Misbehaviour(`nothing more came until the time limit of ${limitMs} ms was over`)),
    limitMs + graceMs,
  );
  let behaviour: Verdict = { ok: true, came: "" };
  try {
    await Promise.race([run(), late.promise]);
  } catch (error) {
    if (error instanceof NotJudged) return result("skipped", null, null, error.message);
    const message = error instanceof Error ? error.message : String(error);
    if (!(error instanceof Misbehaviour || error instanceof WireError)) {
      return result("error", null, null, message);
    }
    behaviour = { ok: false, came: message };
  } finally {
    clearTimeout(timer);
  }
  const came = await closing(), closed = { ok: text.closing.includes(came), came: shownClosing(came) };
  return result(behaviour.ok && closed.ok ? "passed" : "failed", behaviour, closed);
}

/** A case that was not played. */
export function notPlayed(text: CaseText, status: "skipped" | "error", reason: string): CaseResult {
  return { ...textOf(text), status, behaviour: null, closed: null, reason, durationMs: 0, wires: [] };
}

/** A closing in words. */
export function shownClosing(closing: Closing): string {
  return {
    fin: "ended with a FIN",
    reset: "reset",
    open: "left open",
    "by the kit": "reset by the kit",
  }[closing];
}

/** The text alone, without what plays it. */
export function textOf(
  { id, group, level, description, requirement, accepted, closing }: CaseText,
): CaseText {
  return { id, group, level, description, requirement, accepted, closing };
}

/** What a case's own reads have beyond its limit, to say more of what came than that the time was over. */
const graceMs = 100;
