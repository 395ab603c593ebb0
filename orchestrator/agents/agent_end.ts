import type { RunningAgent } from "../compute/compute_service.ts";

/** How long a killed agent may take to end. Milliseconds. */
export const KILLED_MS = 5_000;

/** Whether an agent ends within so long, in milliseconds. One that cannot be killed (a disk that hangs) holds nobody up. */
export async function endsWithin({ ended }: RunningAgent, milliseconds: number): Promise<boolean> {
  const late = Promise.withResolvers<false>();
  const timer = setTimeout(() => late.resolve(false), milliseconds);
  try {
    return await Promise.race([ended.then(() => true), late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
