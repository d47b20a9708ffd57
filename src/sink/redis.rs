//! Redis: the rankings.
