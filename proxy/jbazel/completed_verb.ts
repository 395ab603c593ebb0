/** An option of a verb. */
export interface CompletedOption {
  /** With the dashes. */
  names: string[];
  description: string;
  /** What follows it. */
  value: "none" | "file" | "directory" | "other";
}

/** A verb of jbazel's own. */
export interface CompletedVerb {
  name: string;
  description: string;
  options: CompletedOption[];
  /** What may follow that is no option. */
  words: readonly string[];
}
