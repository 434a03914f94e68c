/** All instruction families. Order matters only where two forms share an opcode: the first that fits wins. */
export function defineAll(): void {
  // each family's define function is called here
}
