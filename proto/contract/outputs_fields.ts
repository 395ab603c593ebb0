/** The numbers of the fields of Outputs in command.proto, which both sides read and write piece by piece. */
export const OUTPUTS_FIELDS = {
  entries: 1,
  manifest: 2,
  unchanged: 3,
  cleaned: 4,
  warnings: 5,
  home: 6,
  gone: 7,
  sources: 8,
  sourcesGone: 9,
} as const;
