/** A timer for peers that must send something in time. */
import { unref } from "./timers.ts";

/** Extra time after the deadline, in milliseconds, to read what has already arrived. */
const GRACE_MS = 200;
/** If the extra time ends this much late, the program was busy and grants it again. Milliseconds. */
const LATE_MS = 200;

/**
 * Calls `then` after some milliseconds plus extra time in which the program was free to read what arrived before the
 * deadline. Does not keep the program alive.
 *
 * @returns stops the timer
 */
export function patientTimer(then: () => void, milliseconds: number): () => void {
  let timer: ReturnType<typeof setTimeout>;
  const wait = (milliseconds: number, over: () => void) => {
    timer = setTimeout(over, milliseconds);
    unref(timer);
  };
  const grace = () => {
    const due = performance.now() + GRACE_MS;
    wait(GRACE_MS, () => performance.now() - due > LATE_MS ? grace() : then());
  };
  wait(milliseconds, grace);
  return () => clearTimeout(timer);
}
