/** An option of a verb. */
export interface CompletedOption {
  /** With dashes. */
  names: string[];
  description: string;
  /** The kind of its value. */
  value: "none" | "file" | "directory" | "other";
}

/** One of jbazel's own verbs. */
export interface CompletedVerb {
  name: string;
  description: string;
  options: CompletedOption[];
  /** The possible arguments. */
  words: readonly string[];
}
