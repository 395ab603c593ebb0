#!/bin/bash
exit "${1:-0}"
