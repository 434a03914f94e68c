export function defineX87Rare(): void {}
