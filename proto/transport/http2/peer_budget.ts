/** What the peer of one connection may still cost: frames without content, and bytes while it is a stranger. */
import type { Admission } from "../admission.ts";
import { ConnectionError } from "./errors.ts";
import { ErrorCode } from "./frames.ts";
import { type Http2Limits, KNOWN, STRANGER } from "./limits.ts";

/** This many useful bytes compensate one useless frame. */
const USEFUL_BYTES = 32;
/** This many unwanted bytes count as one frame. */
const DEAD_BYTES = 256;
/** Frames without content that a request may have: its end, window updates, a ping. */
const REQUEST_FRAMES = 8;

export class PeerBudget {
  readonly #admission?: Admission;
  #limits: Http2Limits;
  /** Budget of frames without content, see {@link count}. */
  #idleFrames: number;
  /** When the budget was last refilled, by performance.now(). */
  #idleFramesAt = performance.now();

  /** @param admission Counts what the peer costs while it is a stranger. Without it the peer is known. */
  constructor(admission?: Admission) {
    this.#admission = admission;
    this.#limits = admission && !admission.admitted ? STRANGER : KNOWN;
    this.#idleFrames = this.#limits.idleFrames;
  }

  /** The limits that hold now. */
  get limits(): Http2Limits {
    return this.#limits;
  }

  get stranger(): boolean {
    return this.#limits === STRANGER;
  }

  /** From here on the peer has the larger limits. */
  becomeKnown(): void {
    this.#limits = KNOWN;
    this.#idleFrames = KNOWN.idleFrames;
  }

  /** Counts bytes held for a stranger. Throws when that is too much. */
  hold(bytes: number): void {
    if (this.#admission && !this.#admission.hold(bytes)) {
      throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too much came before it was known from whom");
    }
  }

  /** Says that bytes of {@link hold} are not held any more. */
  release(bytes: number): void {
    this.#admission?.release(bytes);
  }

  /** Says that nothing is held any more. */
  releaseAll(): void {
    if (this.#admission) this.#admission.release(this.#admission.held);
  }

  /** Charges frames to the budget for frames without content. Useful frames refill it. Throws when it is used up. */
  count(frames: number): void {
    this.#idleFrames -= frames;
    if (this.#idleFrames >= 0) return;
    const { idleFrames, idleFramesPerSecond } = this.#limits;
    const now = performance.now();
    this.#idleFrames += (now - this.#idleFramesAt) / 1000 * idleFramesPerSecond;
    this.#idleFramesAt = now;
    if (this.#idleFrames > idleFrames) this.#idleFrames = idleFrames;
    if (this.#idleFrames < 0) {
      throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that carry nothing");
    }
  }

  /**
   * Charges data for a stream that is over. What was on its way to it fits into a stranger's windows: more is a flood.
   */
  countDead(bytes: number): void {
    if (this.stranger) this.count(bytes / DEAD_BYTES);
  }

  /** Refills the budget for a request, sent or received. */
  usefulRequest(): void {
    this.#refill(REQUEST_FRAMES);
  }

  /** Refills the budget for data, sent or received. */
  usefulData(bytes: number): void {
    this.#refill(bytes / USEFUL_BYTES);
  }

  #refill(frames: number): void {
    this.#idleFrames = Math.min(this.#idleFrames + frames, this.#limits.idleFrames);
  }
}
