/** The timeout for streams that have only headers. */
import { patientTimer } from "../../base/patient_timer.ts";
import type { Stream } from "./stream.ts";

/** Streams of one connection that have only headers, in order of their start, so that one timer does for all. */
export class QuietStreams {
  readonly #streams = new Set<Stream>();
  readonly #quietMs: () => number;
  readonly #tooQuiet: (stream: Stream) => void;
  /** Stops the timer. */
  #stop?: () => void;

  /** @param quietMs How long a stream may have only headers, in milliseconds. @param tooQuiet Ends such a stream. */
  constructor(quietMs: () => number, tooQuiet: (stream: Stream) => void) {
    this.#quietMs = quietMs;
    this.#tooQuiet = tooQuiet;
  }

  /** Starts the timeout for a stream's first data. */
  add(stream: Stream): void {
    this.#streams.add(stream);
    if (!this.#stop) this.#wait(this.#quietMs());
  }

  /** The stream has data, or is over. */
  delete(stream: Stream): void {
    this.#streams.delete(stream);
  }

  /** The connection ends: no stream is timed any more. */
  stop(): void {
    this.#stop?.();
  }

  #wait(milliseconds: number): void {
    this.#stop = patientTimer(() => {
      this.#stop = undefined;
      for (const stream of this.#streams) {
        const left = stream.began + this.#quietMs() - performance.now();
        if (left > 0) return this.#wait(left);
        this.#tooQuiet(stream);
      }
    }, milliseconds);
  }
}
