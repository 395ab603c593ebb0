/** A timer for peers that must say something in time. */
import { unref } from "./timers.ts";

/** What peers get after the time is over, in milliseconds: what came before is read meanwhile. */
const GRACE_MS = 200;
/** The grace that ends so much later than it was due is given again: this program was kept from reading. */
const LATE_MS = 200;

/**
 * Calls `then` after some milliseconds, and a little grace in which this program was not too busy to hear what its peers have
 * said in time. Does not keep the program from its end.
 *
 * @returns stops it
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
