/** What a benchmark found: one line of the table that `deno task bench` prints. */
export interface Result {
  what: string;
  /** Both sides' figures, as text: "direct 71.2 ms, RBS 72.9 ms". */
  measured: string;
  /** What must be reached, as text. */
  target: string;
  reached: boolean;
}

/** The median. NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Measures both sides in turns, so that a neighbour's load hits both; the first `warmUps` rounds do not count. */
export async function interleaved(
  rounds: number,
  warmUps: number,
  sides: readonly (() => Promise<number>)[],
  progress: (round: number) => void,
): Promise<number[][]> {
  const taken = sides.map(() => [] as number[]);
  for (let round = 0; round < warmUps + rounds; round++) {
    progress(round);
    // Each round begins with another side, so that none always runs in the other's shadow.
    for (let i = 0; i < sides.length; i++) {
      const side = (i + round) % sides.length;
      const value = await sides[side]();
      if (round >= warmUps) taken[side].push(value);
    }
  }
  return taken;
}

/** Milliseconds for people. */
export const ms = (value: number): string => `${value.toFixed(value < 10 ? 2 : 1)} ms`;

/** The table. */
export function table(results: readonly Result[]): string {
  const rows = results.map((r) => [r.reached ? "ok" : "MISSED", r.what, r.measured, r.target]);
  const all = [["", "what", "measured (medians)", "must reach"], ...rows];
  const widths = all[0].map((_, i) => Math.max(...all.map((row) => row[i].length)));
  return all.map((row) => row.map((cell, i) => cell.padEnd(widths[i])).join("  ").trimEnd()).join("\n");
}
