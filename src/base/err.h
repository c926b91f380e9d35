/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_ERR_H
#define BASE_ERR_H

/* The error of a part's border: a code for the program, a sentence for people. */
struct err {
	int code;		/* -errno, 0 when nothing went wrong */
	char msg[512];		/* one sentence without a newline */
};

/*
 * err_set() - fill an error
 * @e:    error to fill, may be NULL when nobody reads it
 * @code: -errno
 * @fmt:  printf format of the sentence
 *
 * Return: @code, so that a caller can write return err_set(...)
 */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/*
 * err_prefix() - put "what: " in front of the sentence of an error
 * @e:   error, may be NULL
 * @fmt: printf format of the prefix
 *
 * Return: the error's code
 */
int err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
