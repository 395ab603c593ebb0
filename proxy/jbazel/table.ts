/** Aligns columns with spaces; the last column is not padded. */
export function renderTable(rows: string[][]): string[] {
  const widths = rows.reduce<number[]>((w, row) => row.map((cell, i) => Math.max(w[i] ?? 0, [...cell].length)), []);
  const pad = (cell: string, i: number, row: string[]) =>
    i === row.length - 1 ? cell : cell + " ".repeat(widths[i] - [...cell].length);
  return rows.map((row) => row.map(pad).join("  ").trimEnd());
}

/** A time span in a suitable unit: "4 s", "12 min", "3 h", "5 d". */
export function renderAge(milliseconds: number): string {
  const s = Math.max(0, Math.round(milliseconds / 1000));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  return s < 172_800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86_400)} d`;
}
