/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_NOTE, LOG_INFO, LOG_DEBUG, LOG_TRACE };

/*
 * log_init() - say who speaks and how much
 * @who:   short name put before each line, e.g. the VM's name; copied
 * @level: messages above it are not written
 *
 * Lines go to standard error: "2026-01-31T12:00:00.123 web warn: text key=value".
 */
void log_init(const char *who, enum log_level level);

/*
 * log_level_parse() - level from its name (error, warn, note, info, debug, trace)
 *
 * Return: the level, or -EINVAL
 */
int log_level_parse(const char *name);

/* log_enabled() - whether a message of this level would be written */
int log_enabled(enum log_level level);

/* log_msg() - write one line, atomically; any thread; keeps errno */
void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)	log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)	log_msg(LOG_WARN, __VA_ARGS__)
#define log_note(...)	log_msg(LOG_NOTE, __VA_ARGS__)
#define log_info(...)	log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...)	do { if (log_enabled(LOG_DEBUG)) log_msg(LOG_DEBUG, __VA_ARGS__); } while (0)
#define log_trace(...)	do { if (log_enabled(LOG_TRACE)) log_msg(LOG_TRACE, __VA_ARGS__); } while (0)

#endif
