/** The NOTIFY channel that tells converters that there may be something to claim. It only wakes: a slow poll backs it up. */
export const WAKE_CHANNEL = 'sheetmill_ready';
